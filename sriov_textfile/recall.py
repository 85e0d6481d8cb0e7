"""Recalls which VFs had counted, from the file that a run is about to replace.

A single run has no other memory. The format is that of exposition.render.
"""

from __future__ import annotations

import os
import stat

from sriov_textfile.collectors.vfstats import HELD_BACK, RDMA, RESERVED
from sriov_textfile.held_back import Past
from sriov_textfile.host.files import to_u64

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_ADDRESS = b'pciAddr="'  # followed by the labels pf and vf
_VF = b'",vf="'
_PREFIX = b"sriov_vf_"
_MAX_BYTES = 1 << 26  # that of a host with some 50,000 VFs


def recall(path: str) -> Past:
    """Return what the file at `path` has; nothing if there is none or it cannot be read.

    A line that is no sample is ignored: the file may be damaged, or not be ours.
    """
    try:
        fd = os.open(path, _OPEN)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                return Past(0)
            text = os.read(fd, status.st_size)
        finally:
            os.close(fd)
    except OSError:
        return Past(0)
    counted: set[bytes] = set()
    since: dict[bytes, int] = {}
    # A family is a block: its help, its type, and its samples with nothing else between them.
    for block in text.split(b"# HELP ")[1:]:
        if not block.startswith(_PREFIX):
            continue
        name = _text(block[len(_PREFIX) :].partition(b" ")[0])
        samples = block.split(b"\n")[2:]
        if name == HELD_BACK:
            for line in samples:
                seconds = to_u64(_text(line.rpartition(b" ")[2]))
                if seconds is not None:
                    since[line.partition(_ADDRESS)[2].partition(_VF)[0]] = seconds
        elif name not in RESERVED and not name.startswith(RDMA):
            # Fast, because a host with idle VFs does it at each run.
            above_0 = [line for line in samples if line[-3:] != b"} 0"]
            counted.update([line.partition(_ADDRESS)[2].partition(_VF)[0] for line in above_0])
    return Past(
        status.st_mtime,
        {name for labels in counted for name in _names(labels)},
        {name: seconds for labels, seconds in since.items() for name in _names(labels)},
    )


def _names(labels: bytes) -> tuple[str, str]:
    """Return the VF's names, for a PF with one port and for one with several; see Past."""
    address, _, pf = _text(labels).partition('",pf="')
    return address, f"{address} {pf}"


def _text(field: bytes) -> str:
    return field.decode("ascii", "replace")

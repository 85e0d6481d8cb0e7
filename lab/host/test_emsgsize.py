"""InfiniBand PFs, which Linux 5.10 cannot describe with some numbers of VFs (EMSGSIZE)."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from common import PROGRAM, sh
from conftest import Run, Vfsim, request_link
from test_doctor import doctor

from sriov_textfile.host import rtnetlink
from sriov_textfile.simulate.rtnetlink import LinkSize

Collect = Callable[..., Run]
Load = Callable[..., Vfsim]

# Newer kernels have the commit 23f00807619d, "rtnetlink: Allocate vfinfo size for VF GUIDs when
# supported".
OLD = os.uname().release.startswith("5.10.")
SIOCSIFTXQLEN = 0x8943
MILLISECOND = 1000


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Load the module with an InfiniBand PF, pf0, and an Ethernet PF with four VFs, pf1."""
    loaded = []

    def load(vfs: int) -> Vfsim:
        loaded.append(Vfsim(tmp_path, [vfs, 4], ["infiniband"]))
        return loaded[0]

    yield load
    loaded[0].remove()


def fills(module: Vfsim) -> dict[str, int]:
    """Return how often the kernel has queried the driver about a VF of each PF."""
    return {pf: sum(vf[0] for vf in module.queries(pf).values()) for pf in ("pf0", "pf1")}


def since(module: Vfsim, before: dict[str, int]) -> dict[str, int]:
    """Return how often it has since then.

    A dump fills in some VFs of a PF that does not fit into what is left of a buffer, and then all
    of them for the next buffer. What is left depends on the links before.
    """
    return {pf: number - before[pf] for pf, number in fills(module).items()}


def warnings() -> int:
    """Return how many warnings about failed requests the kernel has logged, each with a stack."""
    return len(re.findall(r"WARNING: .* rtnl_getlink\+", sh("dmesg")))


def codes(module: Vfsim) -> list[tuple[str, str]]:
    _, report = doctor(*module.flags)
    return [(finding["code"], finding["about"]) for finding in report["findings"]]


def test_vfs_have_addresses_of_20_bytes(load: Load) -> None:
    load(4)
    link = rtnetlink.decode_link(request_link("pf0"))
    assert link.vfs[3].mac == "02:00:00:00:00:03" + 14 * ":00"


@pytest.mark.parametrize("vfs", [20, 44])
def test_all_vfs_of_both_pfs_are_exported(
    collect: Collect, load: Load, vfs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(vfs)
    before = fills(module)
    run = collect(*module.flags)
    asked = since(module, before)
    assert (run.code, run.log) == (0, "")
    for pf in ("pf0", "pf1"):
        assert run.counters(pf) == module.counters(pf)
    assert codes(module) == ([("emsgsize", "pf0")] if OLD else [])
    with capsys.disabled():
        print(f"\n  FIGURE {vfs} and 4 VFs: {asked} fills in a run")
    if OLD:  # by name and in the dump, there maybe twice
        assert 2 * vfs <= asked["pf0"] <= 3 * vfs
        assert 8 <= asked["pf1"] <= 12
    else:
        assert asked == {"pf0": vfs, "pf1": 4}


@pytest.mark.parametrize("vfs", [96, 200])
def test_a_pf_that_the_kernel_cannot_describe_costs_only_its_own_metrics(
    collect: Collect, load: Load, vfs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(vfs)
    before = fills(module)
    run = collect(*module.flags)
    asked = since(module, before)
    with capsys.disabled():
        print(f"\n  FIGURE {vfs} and 4 VFs: {asked} fills in a run")
    assert run.code == 0
    assert run.counters("pf1") == module.counters("pf1")
    if OLD:
        assert run.counters("pf0") == {}
        assert "code=emsgsize subject=pf0" in run.log
        assert codes(module) == [("emsgsize", "pf0")]
        # The dump ends before pf1.
        assert asked["pf0"] <= 3 * vfs
        assert asked["pf1"] == 4
    else:
        assert run.counters("pf0") == module.counters("pf0")
        assert (run.log, asked) == ("", {"pf0": vfs, "pf1": 4})


@pytest.mark.skipif(not OLD, reason="the kernel describes every PF in one message")
@pytest.mark.parametrize("vfs", [19, 20, 44, 96, 200])
def test_a_loop_does_not_ask_in_vain_again(
    load: Load, tmp_path: Path, vfs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(vfs)
    file = tmp_path / "loop.prom"
    collections: list[tuple[dict[str, int], int]] = []
    before = fills(module), warnings()
    loop = subprocess.Popen(
        [PROGRAM, f"--textfile.path={file}", "--interval=4s", *module.flags],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(3):
            written = file.stat().st_mtime_ns if file.exists() else 0
            end = time.monotonic() + 60
            while not file.exists() or file.stat().st_mtime_ns == written:
                assert time.monotonic() < end
                time.sleep(0.1)
            now = fills(module), warnings()
            collections.append((since(module, before[0]), now[1] - before[1]))
            before = now
    finally:
        loop.terminate()
        loop.wait()
    with capsys.disabled():
        print(f"\n  FIGURE {vfs} and 4 VFs: a loop's fills and warnings: {collections}")
    assert collections[0][1] == (0 if vfs == 19 else 1)
    for asked, warned in collections[1:]:
        assert warned == 0
        if vfs == 19:
            assert asked == {"pf0": 19, "pf1": 4}
        elif vfs < 96:
            assert vfs <= asked["pf0"] <= 2 * vfs
            assert 8 <= asked["pf1"] <= 12
        else:
            assert asked == {"pf0": 0, "pf1": 4}


@contextmanager
def longest_wait() -> Iterator[list[float]]:
    """Take the RTNL lock again and again; the list then has the longest wait for it in seconds."""
    waits: list[float] = []
    over = threading.Event()
    request = struct.pack("16si12x", b"lo", 1000)

    def change() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            while not over.is_set():
                start = time.monotonic()
                fcntl.ioctl(any_socket, SIOCSIFTXQLEN, request)
                waits.append(time.monotonic() - start)
                time.sleep(0.001)

    longest: list[float] = []
    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield longest
    finally:
        over.set()
        thread.join()
        longest.append(max(waits))


@pytest.mark.parametrize("vfs", [19, 20, 44, 96])
def test_what_a_slow_driver_costs_under_the_rtnl_lock(
    collect: Collect, load: Load, vfs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints figures, enforces no limits."""
    module = load(vfs)
    module.delay(MILLISECOND)
    before = fills(module)
    with longest_wait() as longest:
        collect(*module.flags)
    with capsys.disabled():
        print(
            f"\n  FIGURE {vfs} and 4 VFs, 1 ms each: {since(module, before)} fills,"
            f" another process waited for the RTNL lock for {longest[0] * 1000:.0f} ms at most"
        )


def test_the_simulated_kernel_reserves_as_much_space(tmp_path: Path) -> None:
    """It is Linux 5.10: the same numbers of VFs fail by name, and in a dump of all links."""
    module = Vfsim(tmp_path, [256], ["infiniband"])
    connection = rtnetlink.Rtnetlink("", time.monotonic() + 100)
    by_name, in_a_dump = [], []
    try:
        for vfs in range(1, 257):
            module.set_vfs(vfs)
            try:
                assert len(connection.link("pf0").vfs) == vfs
                by_name.append(vfs)
            except rtnetlink.MessageSizeError:
                links, error = connection.dump(["pf0"])
                if "pf0" in links:
                    assert len(rtnetlink.decode_link(links["pf0"]).vfs) == vfs
                    in_a_dump.append(vfs)
                else:
                    assert error == errno.EMSGSIZE
    finally:
        connection.close()
        module.remove()
    expected = [vfs for vfs in range(1, 257) if not OLD or LinkSize(vfs, guids=True).fits]
    assert by_name == expected
    assert in_a_dump == [vfs for vfs in range(1, 93) if vfs not in expected]

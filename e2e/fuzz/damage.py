"""The kinds of damage to a machine: files, netlink replies, kubelet, cgroups and command line.

Each damage records in the machine what the program may lack because of it. What a damage does not
touch must still be reported, and be right.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import grpc

from e2e.fuzz.machine import FuzzPf, Kubelet, Machine
from sriov_textfile.host.rtnetlink import IFLA_NUM_VF, NLATTR, NLMSG_ERROR, NLMSGHDR
from sriov_textfile.kubelet.podresources_pb2 import (
    ContainerDevices,
    ContainerResources,
    ListPodResourcesResponse,
    PodResources,
)
from sriov_textfile.simulate.rtnetlink import LinkVf, RtnetlinkServer, encode_link
from tests.test_decode_link import damaged

# Each damage returns its name for the figures, or "" if the machine has nothing to damage.
Damage = Callable[[Machine], str]

# --- what a file may contain or be instead ----------------------------------------------

# None of these is a decimal number, not even without surrounding white space.
WORDS = {
    "empty": b"",
    "a word": b"not available\n",
    "negative": b"-1\n",
    "2^64": b"18446744073709551616\n",
    "5,000 digits": b"9" * 5000,
    "hexadecimal": b"0x10\n",
    "a fraction": b"1.5\n",
    "an exponent": b"1e3\n",
    "underscores": b"1_000\n",
    "signed": b"+1\n",
    "Arabic digits": "\u0661\u0662\n".encode(),
    "a superscript": "²\n".encode(),
    "not UTF-8": b"\xff\xfe\xff\n",
    "two numbers": b"1 2\n",
    "a colon": b"1:2\n",
    "NaN": b"NaN\n",
}
TEXTS = {
    **WORDS,
    "a blank line": b"\n",
    "binary": bytes(range(256)),
    "zero bytes": bytes(8),
    "64 KiB of digits": b"1" * 65536,
    "surrounding spaces": b" 1 \n",
    "two lines": b"1\n2\n",
    "a carriage return": b"1\r\n",
}
NUMBERS = {b"0\n": 0, b"007\n": 7, b"18446744073709551615": 2**64 - 1, b"1\n": 1}

ODD_NAMES = (
    "info", "max_tx_rate_mbps", "rx bytes", "rx\nbytes", 'rx"bytes', "rx{}", "é", "\udcff\udcfe",
    "rx-bytes", "\u0661", "a" * 255, "\udcff" * 255, "#", "..x", "rx_bytes ", "RX_BYTES", "_", "9",
    "\t", "\x7f",
)  # fmt: skip


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(target: str, machine: Machine, path: Path) -> None:
    path.symlink_to(target)


def _folder(machine: Machine, path: Path) -> None:
    path.mkdir()
    if machine.random.random() < 0.5:
        (path / machine.random.choice(ODD_NAMES)).write_text("1\n")


def _elsewhere(machine: Machine, path: Path) -> None:
    elsewhere = machine.folder / "elsewhere"
    elsewhere.write_text("4711\n")
    path.symlink_to(elsewhere)


def _socket(machine: Machine, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path has at most 107 characters.
        place = machine.folder / "s"
        server.bind(str(place))
        place.rename(path)


def _huge(machine: Machine, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _unreadable(machine: Machine, path: Path) -> None:
    path.write_text("1\n")
    machine.unreadable.append(path)


OBJECTS: dict[str, Callable[[Machine, Path], None]] = {
    "missing": lambda machine, path: None,
    "a directory": _folder,
    "a dangling link": functools.partial(_link, "nowhere"),
    "a link to a file": _elsewhere,
    "a FIFO": lambda machine, path: os.mkfifo(path),
    "a socket": _socket,
    "1 GiB": _huge,
    "unreadable": _unreadable,
}


def replace(machine: Machine, path: Path, texts: dict[str, bytes] = TEXTS) -> str:
    """Put something else in place of a file, directory or link; return what, or "" if it cannot."""
    random = machine.random
    if not path.parent.is_dir():
        return ""  # Other damage has removed it.
    if random.random() < 0.1 and path.is_dir() and not path.is_symlink():
        machine.unreadable.append(path)
        return "unreadable"
    _remove(path)
    if random.random() < 0.5:
        kind, text = random.choice(list(texts.items()))
        path.write_bytes(text)
        return kind
    if random.random() < 0.1:
        path.symlink_to(path.name)
        return "a looping link"
    kind, put = random.choice(list(OBJECTS.items()))
    put(machine, path)
    return kind


def _is_intact(path: Path) -> bool:
    """Whether a file can be damaged further: it is neither replaced by something else nor huge."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20


def _named(what: str, kind: str) -> str:
    return f"{what}: {kind}" if kind else ""


def _add_odd_names(machine: Machine, folder: Path, what: str) -> str:
    """Add entries with odd names to a directory."""
    if not folder.is_dir():
        return ""
    for name in machine.random.sample(ODD_NAMES, 3):
        if not os.path.lexists(folder / name):
            replace(machine, folder / name)
    return f"{what}: odd names"


# --- sysfs ------------------------------------------------------------------------------


def _some_pf(machine: Machine) -> FuzzPf | None:
    """Return a PF to damage."""
    pfs = [pf for pf in machine.pfs if pf is not machine.healthy_pf]
    return machine.random.choice(pfs) if pfs else None


def _some_vf(machine: Machine, sysfs: Sequence[str]) -> tuple[FuzzPf, int] | None:
    """Return a VF to damage, of a PF with this kind of counters in sysfs.

    It may be a VF of the healthy PF, but never its VF 0.
    """
    vfs = [
        (pf, vf)
        for pf in machine.pfs
        for vf in range(pf is machine.healthy_pf, pf.vfs)
        if pf.sysfs in sysfs
    ]
    return machine.random.choice(vfs) if vfs else None


def _stats(machine: Machine, pf: FuzzPf, vf: int) -> Path:
    return machine.host.device(pf.address) / f"sriov/{vf}/stats"


def counter_file(machine: Machine) -> str:
    """Damage the file of one counter."""
    if not (found := _some_vf(machine, ["folder"])):
        return ""
    pf, vf = found
    name = machine.random.choice(list(pf.counters(vf, 0)))
    kind = replace(machine, _stats(machine, pf, vf) / name)
    for expected in machine.of(pf, vf, "sysfs") if kind else []:
        expected.optional.add(name)
    return _named("counter file", kind)


def counter_number(machine: Machine) -> str:
    """Replace a counter by another number, which the program must report."""
    if not (found := _some_vf(machine, ["folder"])):
        return ""
    pf, vf = found
    name = machine.random.choice(list(pf.counters(vf, 0)))
    path = _stats(machine, pf, vf) / name
    if not _is_intact(path):
        return ""
    text, number = machine.random.choice(list(NUMBERS.items()))
    path.write_bytes(text)
    for expected in machine.of(pf, vf, "sysfs"):
        expected.values[name] = number
    return "counter file: another number"


def counter_names(machine: Machine) -> str:
    """Add counters with odd names, some of which the program may report."""
    if not (found := _some_vf(machine, ["folder"])):
        return ""
    pf, vf = found
    folder = _stats(machine, pf, vf)
    if not folder.is_dir():
        return ""
    names: list[str] = machine.random.sample(ODD_NAMES, 4)
    if machine.random.random() < 0.1:
        names += [f"queue_{number}" for number in range(300)]
    for name in names:
        if not os.path.lexists(folder / name):
            (folder / name).write_text("12\n")
            for expected in machine.of(pf, vf, "sysfs"):
                expected.values[name] = 12
                expected.optional.add(name)
    return "counter files: odd names"


def stats_lines(machine: Machine) -> str:
    """Damage a line of a file with all counters."""
    random = machine.random
    if not (found := _some_vf(machine, ["file"])):
        return ""
    pf, vf = found
    path = _stats(machine, pf, vf)
    if not _is_intact(path):
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    names = [line.partition(b":")[0].strip().decode("utf-8", "replace") for line in lines]
    place = random.randrange(len(lines)) if lines else 0
    if sorted(names) != sorted(pf.counters(vf, 0)):
        return ""  # Other damage has changed them.
    name, line, number = names[place], lines[place], None
    match kind := random.choice(("a word", "without a colon", "odd name", "repeated", "cut off")):
        case "a word":
            kind, word = random.choice(list(WORDS.items()))
            line = name.encode() + b" : " + word.rstrip(b"\n") + b"\n"
        case "without a colon":
            line = line.replace(b":", b" ")
        case "odd name":
            odd = os.fsencode(random.choice([odd for odd in ODD_NAMES if "\n" not in odd]))
            line = odd + line
        case "repeated":
            number = 5
            line += name.encode() + b": 5\n"
        case "cut off":
            line = line[: line.index(b":")]
            lines[place + 1 :] = []
    lines[place] = line
    path.write_bytes(b"".join(lines))
    for expected in machine.of(pf, vf, "sysfs"):
        if number is not None:
            expected.values[name] = number  # The last one counts.
        elif kind == "cut off":
            expected.lose()
        elif kind == "odd name":
            expected.anything = True
        else:
            expected.optional.add(name)
    return f"counter line: {kind}"


def stats(machine: Machine) -> str:
    """Damage a VF's directory or file of counters, or the directory around it."""
    if not (found := _some_vf(machine, ["folder", "file"])):
        return ""
    path = _stats(machine, *found)
    texts = {kind: text for kind, text in TEXTS.items() if kind != "a colon"}  # a counter 1
    kind = replace(machine, machine.random.choice([path, path, path.parent]), texts)
    if kind:
        machine.lose_counters(found[0], "sysfs", found[1])
    return _named("VF's counters", kind)


def sriov_folder(machine: Machine) -> str:
    """Damage the directory of a PF's counters, or the link to its netdev."""
    pf = _some_pf(machine)
    if not pf or not pf.netdev:
        return ""
    folder = machine.host.device(pf.address) / "sriov"
    kind = replace(machine, machine.random.choice([folder, machine.host.net / pf.netdev]))
    if kind:
        machine.lose_counters(pf, "sysfs")
    return _named("PF's counters", kind)


def harmless_attribute(machine: Machine) -> str:
    """Damage an attribute that is not needed to find a PF or its counters."""
    pf = machine.random.choice(machine.pfs)
    name = machine.random.choice(("numa_node", "sriov_numvfs", "driver", "net/phys_switch_id"))
    path = machine.host.device(pf.address) / name
    if name.startswith("net/"):
        path = path.parent / pf.netdev / path.name
        if not pf.netdev or path.parent.is_symlink():
            return ""
    return _named(name, replace(machine, path))


def pf_attribute(machine: Machine) -> str:
    """Damage an attribute by which the program finds a PF, its VFs and its netdev."""
    if not (pf := _some_pf(machine)):
        return ""
    device = machine.host.device(pf.address)
    names = ["sriov_totalvfs", "class", "net"]
    if pf.netdev:
        net = f"net/{pf.netdev}"
        names += [net, *[f"{net}/{name}" for name in ("phys_port_name", "dev_port", "ifindex")]]
    name = machine.random.choice(names)
    kind = replace(machine, device / name)
    if kind:
        machine.lose(pf)
    return _named(name.replace(f"/{pf.netdev}", "/<netdev>") if pf.netdev else name, kind)


def pf_device(machine: Machine) -> str:
    """Damage a PF's entry among the PCI devices."""
    if not (pf := _some_pf(machine)):
        return ""
    kind = replace(machine, machine.host.bus / pf.address)
    if kind:
        machine.lose(pf)
    return _named("PF's device", kind)


def more_netdevs(machine: Machine) -> str:
    """Add netdevs with odd names to a PF."""
    if not (pf := _some_pf(machine)):
        return ""
    machine.lose(pf)
    return _add_odd_names(machine, machine.host.device(pf.address) / "net", "PF's netdevs")


def vf_link(machine: Machine) -> str:
    """Damage the link from a PF to a VF."""
    if not (found := _some_vf(machine, ["folder", "file", "none"])):
        return ""
    pf, vf = found
    kind = replace(machine, machine.host.device(pf.address) / f"virtfn{vf}")
    if kind:
        machine.lose(pf, vf)
    return _named("virtfn", kind)


def more_vf_links(machine: Machine) -> str:
    """Add links to VFs that no reader has counters for."""
    pf = machine.random.choice(machine.pfs)
    device = machine.host.device(pf.address)
    if not device.is_dir():
        return ""
    for number in ("", "x", "-1", "99999", "9" * 240, "\u0661", "²", "00", "\udcff"):
        path = device / f"virtfn{number}"
        if not os.path.lexists(path):
            path.symlink_to(f"../{machine.random.choice(['nowhere', path.name, ODD_NAMES[3]])}")
    return "virtfn: odd numbers"


def vf_device(machine: Machine) -> str:
    """Damage what only the collector vfinfo reads of a VF."""
    if not (found := _some_vf(machine, ["folder", "file", "none"])):
        return ""
    device = machine.host.device(found[0].vf_address(found[1]))
    path = machine.random.choice([device, device / "driver", device / "net", device / "physfn"])
    return _named("VF's device", replace(machine, path))


def more_devices(machine: Machine) -> str:
    """Add PCI devices with odd names, one of which pretends to be a PF of the machine."""
    random, bus = machine.random, machine.host.bus
    if not (name := _add_odd_names(machine, bus, "PCI devices")):
        return ""
    device = bus / random.choice(("zzzz:zz:zz.z", "0000:00:00.9", "\udcff:", "a\n"))
    if not os.path.lexists(device):
        pf = random.choice(machine.pfs)
        (device / "net" / (pf.netdev or "x")).mkdir(parents=True)
        (device / "sriov_totalvfs").write_text("8\n")
        (device / "class").write_text("0x020000\n")
        for vf in range(3):
            (device / f"virtfn{vf}").symlink_to(f"../{pf.vf_address(vf)}")
        machine.renamed = True
    return name


def more_links(machine: Machine) -> str:
    """Add network devices with odd names."""
    return _add_odd_names(machine, machine.host.net, "network devices")


def missing_tree(machine: Machine) -> str:
    """Let the PCI devices, or the network devices, be missing."""
    random = machine.random
    flag = random.choice(("path.sysbuspci", "path.sysclassnet"))
    machine.paths[flag] = random.choice(("", "/dev/null", "/nowhere", "x" * 5000, "\udcff", "\n"))
    for pf in machine.pfs:
        if flag == "path.sysbuspci":
            machine.lose(pf)
        else:
            machine.lose_counters(pf, "sysfs")
    return f"{flag}: missing"


# --- netlink ----------------------------------------------------------------------------

Reply = Callable[[RtnetlinkServer, bytes], bytes | None]


def _sequence(reply: bytes) -> int:
    sequence: int = NLMSGHDR.unpack_from(reply)[3]
    return sequence


def _with_length(reply: bytes) -> bytes:
    return struct.pack("=I", len(reply)) + reply[4:]


def flipped_bits(machine: Machine, netdev: str) -> Reply:
    seed = machine.random.getrandbits(32)
    _any_counters(machine, netdev)

    def flip(server: RtnetlinkServer, reply: bytes) -> bytes:
        # With another sequence number, it would be the reply to another request.
        flipped = damaged(reply, Random(seed))
        return flipped[:8] + reply[8:12] + flipped[12:]

    return flip


def truncated(machine: Machine, netdev: str) -> Reply:
    share, patched = machine.random.random(), machine.random.random() < 0.7
    _no_counters(machine, netdev)

    def cut(server: RtnetlinkServer, reply: bytes) -> bytes:
        short = reply[: max(16, int(share * len(reply)))]
        return _with_length(short) if patched else short

    return cut


def wrong_type(machine: Machine, netdev: str) -> Reply:
    type = machine.random.choice((0, 1, NLMSG_ERROR, 3, 17, 18, 0xFFFF))
    _no_counters(machine, netdev)
    return lambda server, reply: reply[:4] + struct.pack("=H", type) + reply[6:]


def refused(machine: Machine, netdev: str) -> Reply:
    code = machine.random.choice((-1, -12, -16, -19, -95, 0, 1, -5000, 2**31 - 1, -(2**31)))
    _no_counters(machine, netdev)
    body = struct.pack("=i", code) + bytes(16)
    header = (NLMSGHDR.size + len(body), NLMSG_ERROR, 0)
    return lambda server, reply: NLMSGHDR.pack(*header, _sequence(reply), 0) + body


def too_short(machine: Machine, netdev: str) -> Reply:
    length = machine.random.randint(1, 31)
    _no_counters(machine, netdev)
    return lambda server, reply: reply[:length]


def garbage(machine: Machine, netdev: str) -> Reply:
    bytes_ = machine.random.randbytes(machine.random.choice((16, 32, 1000, 60_000)))
    _no_counters(machine, netdev)
    return lambda server, reply: bytes_[:8] + reply[8:12] + bytes_[12:]


def other_name(machine: Machine, netdev: str) -> Reply:
    name = machine.random.choice(("", "lo", "x" * 30_000, "\udcff", netdev + "x", *ODD_NAMES))
    _no_counters(machine, netdev)
    return lambda server, reply: encode_link(name, "", bytes(6), 0, [], _sequence(reply))


def of_another_pf(machine: Machine, netdev: str) -> Reply:
    other = machine.random.choice(list(machine.counters) or [(netdev, 0)])[0]
    if other != netdev:
        _no_counters(machine, netdev)
    return lambda server, reply: machine.host.describe(other, _sequence(reply))


def unknown(machine: Machine, netdev: str) -> Reply:
    _no_counters(machine, netdev)
    return lambda server, reply: None


def number_of_vfs(machine: Machine, netdev: str) -> Reply:
    number = machine.random.choice((0, 1, 2, 255, 2**32 - 1))
    _no_counters(machine, netdev)

    def patch(server: RtnetlinkServer, reply: bytes) -> bytes:
        place = reply.index(NLATTR.pack(8, IFLA_NUM_VF)) + NLATTR.size
        return reply[:place] + struct.pack("=I", number) + reply[place + 4 :]

    return patch


def missing_or_repeated_vf(machine: Machine, netdev: str) -> Reply:
    pf = next(pf for pf in machine.pfs if netdev in pf.ports)
    vfs = [pf.link_vf(vf, 0) for vf in range(pf.vfs)]
    if vfs:
        vf = machine.random.choice(vfs)
        if machine.random.random() < 0.5:
            vfs.remove(vf)
            machine.counters[netdev, vf.number]["netlink"].lose()
        else:
            vfs.append(vf)
            _no_counters(machine, netdev)
    return lambda server, reply: encode_link(
        netdev, pf.address, pf.hardware_address, pf.vfs, vfs, _sequence(reply)
    )


def unknown_vf(machine: Machine, netdev: str) -> Reply:
    pf = next(pf for pf in machine.pfs if netdev in pf.ports)
    number = machine.random.choice((pf.vfs, 2**32 - 1))
    vfs = [*[pf.link_vf(vf, 0) for vf in range(pf.vfs)], LinkVf(number, stats={"rx_bytes": 1})]
    return lambda server, reply: encode_link(
        netdev, pf.address, pf.hardware_address, len(vfs), vfs, _sequence(reply)
    )


def unknown_attributes(machine: Machine, netdev: str) -> Reply:
    extra = b"".join([NLATTR.pack(8, type) + b"abcd" for type in (0, 999, 0x3FFF, 0x8000 | 60)])
    return lambda server, reply: _with_length(reply[:32] + extra + reply[32:])


def trailing_bytes(machine: Machine, netdev: str) -> Reply:
    trail = machine.random.randbytes(machine.random.choice((1, 4, 60_000)))
    return lambda server, reply: reply + trail


def duplicated(machine: Machine, netdev: str) -> Reply:
    def twice(server: RtnetlinkServer, reply: bytes) -> bytes:
        server.stray = reply
        return reply

    return twice


def late(machine: Machine, netdev: str) -> Reply:
    trail = machine.random.randbytes(machine.random.choice((0, 4, 1000)))

    def stray(server: RtnetlinkServer, reply: bytes) -> bytes:
        server.stray = NLMSGHDR.pack(99, 16, 0, _sequence(reply) + 7, 0) + trail
        return reply

    return stray


def short_stray(machine: Machine, netdev: str) -> Reply:
    bytes_ = machine.random.randbytes(machine.random.randint(1, 15))
    _no_counters(machine, netdev)

    def stray(server: RtnetlinkServer, reply: bytes) -> bytes:
        server.stray = bytes_
        return reply

    return stray


def closed(machine: Machine, netdev: str) -> Reply:
    for each, _ in machine.counters:  # The connection is for all PFs.
        _no_counters(machine, each)

    def close(server: RtnetlinkServer, reply: bytes) -> bytes:
        raise ConnectionError

    return close


def silent(machine: Machine, netdev: str) -> Reply:
    _no_counters(machine, netdev)
    _hang(machine)

    def hang(server: RtnetlinkServer, reply: bytes) -> bytes:
        machine.over.wait()
        raise ConnectionError

    return hang


def wrong_sequence(machine: Machine, netdev: str) -> Reply:
    _no_counters(machine, netdev)
    _hang(machine)
    return lambda server, reply: reply[:8] + struct.pack("=I", 2**32 - 1) + reply[12:]


def _no_counters(machine: Machine, netdev: str) -> None:
    for (each, _), readers in machine.counters.items():
        if each == netdev:
            readers["netlink"].lose()


def _any_counters(machine: Machine, netdev: str) -> None:
    for (each, _), readers in machine.counters.items():
        if each == netdev:
            readers["netlink"].anything = True


def _hang(machine: Machine) -> None:
    """Give the program little time, of which it spends most on what hangs."""
    machine.hangs += 1
    machine.may_fail = True
    machine.timeout = min(machine.timeout, machine.random.choice((0.3, 0.5, 1.0, 2.0)))


REPLIES: tuple[Callable[[Machine, str], Reply], ...] = (
    flipped_bits, flipped_bits, flipped_bits, truncated, truncated, wrong_type, refused, too_short,
    garbage, other_name, of_another_pf, unknown, number_of_vfs, missing_or_repeated_vf, unknown_vf,
    unknown_attributes, trailing_bytes, duplicated, late, short_stray,
)  # fmt: skip


def netlink_reply(machine: Machine, kinds: Sequence[Callable[[Machine, str], Reply]]) -> str:
    """Damage the reply about a PF, in one of several ways."""
    pf = _some_pf(machine)
    if not pf or not pf.netdev or "netlink" not in machine.readers:
        return ""
    netdev = machine.random.choice(pf.ports)
    if netdev in machine.replies:
        return ""
    kind = machine.random.choice(kinds)
    machine.replies[netdev] = kind(machine, netdev)
    return f"netlink: {kind.__name__.replace('_', ' ')}"


def no_rtnetlink(machine: Machine) -> str:
    """Let rtnetlink be unavailable."""
    machine.rtnetlink = machine.random.choice(
        ("/nowhere", "/dev/null", machine.paths["path.kubeletsocket"])
    )
    for netdev, _ in machine.counters:
        _no_counters(machine, netdev)
    return "netlink: unavailable"


# --- the kubelet ------------------------------------------------------------------------


@functools.cache
def _repeated_devices(count: int) -> bytes:
    """Return a response with the same device `count` times, which the program cannot use."""
    devices = ContainerDevices(resource_name="vendor/vf", device_ids=["0000:11:00.0"] * count)
    container = ContainerResources(name="c", devices=[devices])
    pod = PodResources(name="p", namespace="core", containers=[container])
    return ListPodResourcesResponse(pod_resources=[pod]).SerializeToString()


def _devices(ids: Sequence[str]) -> bytes:
    devices = ContainerDevices(resource_name="\0\n\"\\{}é'", device_ids=ids)
    container = ContainerResources(name="c\n", devices=[devices])
    pod = PodResources(name="p" * 10_000, namespace="", containers=[container] * 2)
    return ListPodResourcesResponse(pod_resources=[pod] * 2).SerializeToString()


ODD_DEVICES = (
    "", "gpu", "0000:11:00.8", "0000:11:00.0\n", "0000:11:00", "\u0661\u0662\u0663\u0664:11:00.0",
    "0000-11-00-0", "é",
    "0000:11:00.0 ", "00000000000000000011:11:00.7", "FFFF:FF:FF.7", "0" * 100_000, "\0",
)  # fmt: skip


def kubelet(machine: Machine) -> str:
    """Let the kubelet answer with something else."""
    random = machine.random
    if "kubepoddevice" not in machine.collectors:
        return ""
    whole = machine.kubelet.response
    kinds: dict[str, Callable[[], Kubelet]] = {
        "garbage": lambda: Kubelet(random.randbytes(random.choice((1, 10, 1000)))),
        "cut off": lambda: Kubelet(whole[: int(random.random() * len(whole))]),
        "a flipped bit": lambda: Kubelet(_flip(random, whole)),
        "an error": lambda: Kubelet(
            status=random.choice([code for code in grpc.StatusCode if code.value[0]]),
            details=random.choice(("", "reason", "a\nb", "é" * 500, "\x1b[2J")),
        ),
        "odd devices": lambda: Kubelet(_devices(ODD_DEVICES)),
        "3,000 repeated devices": lambda: Kubelet(_repeated_devices(3000)),
        "nothing": lambda: Kubelet(b""),
        "no gRPC": lambda: Kubelet(
            raw=random.choice((b"\0" * 9, b"HTTP/1.1 400 No\r\n\r\n", b"x"))
        ),
    }
    if random.random() < 0.05:
        kinds = {
            "70,000 repeated devices": lambda: Kubelet(_repeated_devices(70_000)),
            "16 MiB": lambda: Kubelet(bytes(17 << 20)),
        }
    kind, make = random.choice(list(kinds.items()))
    machine.kubelet = make()
    return f"kubelet: {kind}"


def _flip(random: Random, data: bytes) -> bytes:
    flipped = bytearray(data or b"\0")
    flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def kubelet_hangs(machine: Machine) -> str:
    """Let the kubelet not answer."""
    if "kubepoddevice" not in machine.collectors:
        return ""
    machine.kubelet = Kubelet(hangs=True)
    _hang(machine)
    return "kubelet: hangs"


def kubelet_socket(machine: Machine) -> str:
    """Put something else in place of the kubelet's socket."""
    if "kubepoddevice" not in machine.collectors:
        return ""
    path = machine.folder / "kubelet.sock"
    machine.paths["path.kubeletsocket"] = str(path)
    return _named("kubelet's socket", replace(machine, path))


# --- cgroups, NUMA nodes and the CPU manager --------------------------------------------

CPU_LISTS = {
    **TEXTS,
    "backwards": b"9-2\n",
    "no end": b"3-\n",
    "no start": b"-3\n",
    "too many CPUs": b"0-65536\n",
    "far too many CPUs": b"0-99999999999999999999\n",
    "many CPUs": b"0-1023\n",
    "steps": b"0-10:2/4\n",
    "commas": b",,1,,\n",
    "spaces": b"1, 2\n",
}


def _needs_cpus(damage: Damage) -> Damage:
    """Damage only a machine whose CPUs the program reads."""

    @functools.wraps(damage)
    def wrapped(machine: Machine) -> str:
        return damage(machine) if "kubepodcpu" in machine.collectors else ""

    return wrapped


@_needs_cpus
def cgroup(machine: Machine) -> str:
    """Damage a file or directory among the cgroups."""
    paths = sorted(machine.node.cgroups.rglob("*")) or [machine.node.cgroups]
    path = machine.random.choice(paths)
    return _named("cgroup", replace(machine, path, CPU_LISTS))


@_needs_cpus
def more_cgroups(machine: Machine) -> str:
    """Add cgroups with odd names, or nested deeply."""
    root = machine.node.cgroups
    folders = sorted(path for path in [root, *root.rglob("*")] if path.is_dir())
    if not folders:
        return ""
    folder = machine.random.choice(folders)
    if machine.random.random() < 0.3:
        nested = folder / "/".join(["kubepods-burstable.slice"] * 30)
        nested.mkdir(parents=True, exist_ok=True)
        (nested / "cpuset.cpus").write_text("3\n")
        return "cgroups: nested"
    uid = f"{machine.random.getrandbits(128):032x}"
    for name in (
        f"pod{uid}",
        f"kubepods-pod{uid}.slice",
        "a" * 20,
        "crio-.scope",
        f"crio-{uid}.scope",
    ):
        if not os.path.lexists(folder / name):
            (folder / name).mkdir()
            replace(machine, folder / name / "cpuset.cpus", CPU_LISTS)
    return _add_odd_names(machine, folder, "cgroups")


@_needs_cpus
def numa_node(machine: Machine) -> str:
    """Damage the CPUs of a NUMA node."""
    random = machine.random
    node = machine.node.nodes / f"node{random.randrange(2)}"
    path = random.choice((node / "cpulist", node / "cpulist", node, machine.node.nodes))
    return _named("NUMA node", replace(machine, path, CPU_LISTS))


@_needs_cpus
def more_numa_nodes(machine: Machine) -> str:
    """Add NUMA nodes with odd names."""
    nodes = machine.node.nodes
    if not nodes.is_dir():
        return ""
    for name in ("nodex", "node", "node\u0661", "node²", "node" + "9" * 200, "node007"):
        (nodes / name).mkdir(exist_ok=True)
        replace(machine, nodes / name / "cpulist", CPU_LISTS)
    (nodes / "node8" / "cpu3").mkdir(parents=True, exist_ok=True)
    (nodes / "node8" / "cpu\u0661").mkdir(exist_ok=True)
    return _add_odd_names(machine, nodes, "NUMA nodes")


JSON_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 1.5, "", "x", "0-99999999999", "9-2", [], ["0-3"], {}, {"0": "1"}, "\ud800",
)  # fmt: skip


@_needs_cpus
def checkpoint(machine: Machine) -> str:
    """Damage the checkpoint of the CPU manager."""
    random = machine.random
    path = machine.node.checkpoint
    if not _is_intact(path):
        return ""
    whole = path.read_bytes()
    kinds: dict[str, Callable[[], bytes]] = {
        "half-written": lambda: whole[: int(random.random() * len(whole))],
        "a flipped bit": lambda: _flip(random, whole),
        "another type": lambda: json.dumps(random.choice(JSON_VALUES)).encode(),
        "another default set": lambda: json.dumps(
            {"policyName": random.choice(JSON_VALUES), "defaultCpuSet": random.choice(JSON_VALUES)}
        ).encode(),
        "100,000 levels": lambda: b"[" * 100_000,
        "a huge number": lambda: b'{"defaultCpuSet": ' + b"9" * 5000 + b"}",
        "a huge object": lambda: whole[:-1] + b" " * (17 << 20),
        "repeated keys": lambda: b'{"defaultCpuSet": "0-3", "defaultCpuSet": [1]}',
        "two objects": lambda: whole + whole,
        "a byte order mark": lambda: b"\xef\xbb\xbf" + whole,
        "UTF-16": lambda: whole.decode("utf-8", "replace").encode("utf-16"),
    }
    kind, make = random.choice(list(kinds.items()))
    path.write_bytes(make())
    return f"checkpoint: {kind}"


@_needs_cpus
def checkpoint_file(machine: Machine) -> str:
    """Put something else in place of the checkpoint."""
    return _named("checkpoint", replace(machine, machine.node.checkpoint))


@_needs_cpus
def cpu_path(machine: Machine) -> str:
    """Let a flag name another path."""
    random = machine.random
    flag = random.choice(("path.cpucheckpoint", "path.kubecgroup", "path.nodecpuinfo"))
    paths = (
        "",
        "/",
        "/dev/null",
        "/nowhere",
        "x" * 5000,
        "\udcff\n",
        "kubepods",
        str(machine.folder),
    )
    machine.paths[flag] = random.choice(paths)
    return f"{flag}: another path"


# --- the command line and the output ----------------------------------------------------

BAD_ARGUMENTS = (
    "--nonsense", "--timeout=0", "--timeout=abc", "--timeout=1e3", "--collector.pf-include=(",
    "--collector.pf-exclude=[[:alpha:]]", "--collector.vfstatspriority=proc", "--web.rate-limit=0",
    "--log.level=loud", "--pfs=3", "--textfile.path=x.txt", "--collector.vfstats=maybe",
    "--no-collector.vfstats=1", "--no-timeout", "demonstrate", "-", "\udcff", "--=", "--timeout",
    "--interval=-1s", "--log.format", "--timeout=" + "9" * 400,
    "--collector.pf-include=a{99999999999}",
)  # fmt: skip


def bad_argument(machine: Machine) -> str:
    """Add an argument that the program must reject."""
    argument = machine.random.choice(BAD_ARGUMENTS)
    machine.bad_arguments.append(argument)
    return "command line: wrong"


def doctor(machine: Machine) -> str:
    """Run doctor instead of a collection."""
    machine.command = machine.random.choice(("doctor", "doctor --json"))
    machine.may_fail = True  # because of its findings
    return "command: doctor"


def output(machine: Machine) -> str:
    """Put something else in place of the .prom file or its directory."""
    random = machine.random
    if machine.command:
        return ""
    kinds = {
        "in a missing directory": machine.folder / "nowhere/a.prom",
        "with a long name": machine.folder / ("x" * 300 + ".prom"),
        "with an odd name": machine.folder / '\udcff\n".prom',
        "something else": machine.folder / "other.prom",
    }
    kind, machine.textfile = random.choice(list(kinds.items()))
    if kind == "something else":
        kind = replace(machine, machine.textfile)
    machine.may_fail = True
    return _named("output", kind)


# The more often a damage is listed, the more often it is used.
DAMAGES: tuple[Damage, ...] = (
    *[counter_file] * 4, counter_number, *[counter_names] * 2, *[stats_lines] * 3, *[stats] * 2,
    sriov_folder, harmless_attribute, *[pf_attribute] * 2, pf_device, more_netdevs, *[vf_link] * 2,
    more_vf_links, vf_device, more_devices, more_links,
    *[functools.partial(netlink_reply, kinds=REPLIES)] * 10, *[kubelet] * 4, kubelet_socket,
    *[cgroup] * 3, more_cgroups, *[numa_node] * 2, more_numa_nodes, *[checkpoint] * 2,
    checkpoint_file,
)  # fmt: skip
# These would hide other damage, or take long, so they are rare.
RARE_DAMAGES: tuple[Damage, ...] = (
    *[bad_argument] * 6, *[doctor] * 6, *[output] * 4, no_rtnetlink, *[missing_tree] * 2,
    *[cpu_path] * 3, *[kubelet_hangs] * 2,
    *[functools.partial(netlink_reply, kinds=(closed, silent, wrong_sequence))] * 4,
)  # fmt: skip


def inflict(machine: Machine) -> None:
    """Damage a machine: rarely not at all, mostly in several ways at once."""
    random = machine.random
    chosen = random.choices(DAMAGES, k=random.choice((0, 1, 2, 3, 4, 6, 8, 12)))
    chosen += random.choices(RARE_DAMAGES, k=random.random() < 0.25)
    random.shuffle(chosen)
    machine.damage = [name for damage in chosen if (name := damage(machine))]
    # Last, because other damage may be to the same files.
    for path in sorted(set(machine.unreadable), reverse=True):
        if path.exists() and not path.is_symlink():
            path.chmod(0)
            machine.unprivileged = True

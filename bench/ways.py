"""Three implementations of a collection: ours, the obvious one with libraries, and the floor.

The obvious one uses well-maintained libraries and no optimizations. The floor only makes the
necessary system calls and ignores what they return.
"""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pyroute2.netlink import nla_base
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from sriov_textfile import exposition, flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.host import rtnetlink
from sriov_textfile.log import Log
from sriov_textfile.simulate.host import SimulatedHost
from sriov_textfile.top import live
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.rates import Meter
from sriov_textfile.top.screen import Status
from sriov_textfile.top.view import View

LABELS = ("numa_node", "pciAddr", "pf", "vf")


class Ours:
    """The program's own collection, up to the bytes of the exposition."""

    def __init__(self, host: SimulatedHost, reader: str) -> None:
        arguments = [*host.flags, f"--collector.vfstatspriority={reader}"]
        config = flags.config(flags.parse(arguments)[1], host.rtnetlink)
        self._gatherer = Gatherer(config, Log())

    def __call__(self) -> bytes:
        """Collect once."""
        return exposition.render(self._gatherer.gather())


class Refresh:
    """A refresh of top's live view: a sample, its rates, and the screen on a terminal."""

    def __init__(self, host: SimulatedHost, reader: str, terminal: live.Terminal) -> None:
        arguments = [*host.flags, f"--collector.vfstatspriority={reader}"]
        config = flags.config(flags.parse(arguments)[1], host.rtnetlink)
        self.sample = Machine(config).sample
        self._meter = Meter()
        self._view = View("vf")
        self._terminal = terminal

    def __call__(self) -> None:
        """Refresh once."""
        self._terminal.show(self._view, self._meter.update(self.sample()), Status(1.0))


@contextmanager
def terminal() -> Iterator[live.Terminal]:
    """Use a pseudo-terminal of 80x24 as standard input and output of this process."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    saved = [os.dup(0), os.dup(1)]
    reader = subprocess.Popen(
        ["cat"], stdin=master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.environ["TERM"] = "xterm-256color"
    try:
        for number in (0, 1):
            os.dup2(slave, number)
        with live.terminal() as opened:
            yield opened
    finally:
        for number, file in enumerate(saved):
            os.dup2(file, number)
            os.close(file)
        os.close(slave)
        os.close(master)
        reader.kill()
        reader.wait()


class Obvious(Collector):
    """A collector for prometheus_client that reads with pathlib and decodes with pyroute2."""

    def __init__(self, host: SimulatedHost, reader: str) -> None:
        self._host = host
        self._reader = reader
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def __call__(self) -> bytes:
        """Collect once."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield metric families to the registry."""
        families: dict[str, GaugeMetricFamily] = {}
        for device in sorted(self._host.bus.iterdir()):
            if not (device / "sriov_totalvfs").exists():
                continue
            if not (device / "class").read_text().startswith("0x02"):
                continue
            pf = next((device / "net").iterdir()).name
            numa_node = (device / "numa_node").read_text().strip()
            addresses = {int(link.name[6:]): link.resolve().name for link in device.glob("virtfn*")}
            counters = self._netlink(pf) if self._reader == "netlink" else self._sysfs(pf)
            for vf, values in counters.items():
                for name, value in values.items():
                    if name not in families:
                        families[name] = GaugeMetricFamily(f"sriov_vf_{name}", name, labels=LABELS)
                    families[name].add_metric([numa_node, addresses[vf], pf, str(vf)], value)
        yield from families.values()

    def _sysfs(self, pf: str) -> dict[int, dict[str, int]]:
        folder: Path = self._host.net / pf / "device/sriov"
        return {
            int(vf.name): {
                counter.name: int(counter.read_text()) for counter in (vf / "stats").iterdir()
            }
            for vf in folder.iterdir()
        }

    def _netlink(self, pf: str) -> dict[int, dict[str, int]]:
        message = ifinfmsg(_request(self._host.rtnetlink, pf))
        message.decode()
        found = {}
        for entry in message.get_attr("IFLA_VFINFO_LIST").get_attrs("IFLA_VF_INFO"):
            vf = {name: entry.get_attr(name) for name, _ in entry["attrs"]}
            counters = vf["IFLA_VF_STATS"]["attrs"]
            found[vf["IFLA_VF_MAC"]["vf"]] = {
                name.removeprefix("IFLA_VF_STATS_").lower(): value for name, value in counters
            }
        return found


def pyroute2_full_decode(reply: bytes) -> int:
    """Decode every attribute of every VF with pyroute2, which decodes on access."""

    def decode(attribute: nla_base) -> int:
        nested = attribute.get("attrs", ()) if isinstance(attribute, dict) else ()
        return 1 + sum([decode(slot[1]) for slot in nested])  # slot[1] decodes the attribute

    message = ifinfmsg(reply)
    message.decode()
    return decode(message.get_attr("IFLA_VFINFO_LIST"))


class Floor:
    """Only the system calls needed to find the PFs and VFs and to read their counters."""

    def __init__(self, host: SimulatedHost, reader: str) -> None:
        self._host = host
        self._netlink = reader == "netlink"
        self._vfs = {pf.vf_address(vf) for pf in host.pfs for vf in range(pf.vfs)}
        self._counters: list[str] = []  # listed once

    def __call__(self) -> None:
        """Make the calls once."""
        bus = str(self._host.bus)
        connection = None
        for address in os.listdir(bus):
            device = f"{bus}/{address}"
            if address in self._vfs or not _try_to_read(f"{device}/sriov_totalvfs"):
                continue
            if not _try_to_read(f"{device}/class").startswith(b"0x02"):
                continue
            for name in os.listdir(device):
                if name.startswith("virtfn"):
                    os.readlink(f"{device}/{name}")
            (pf,) = os.listdir(f"{device}/net")
            for name in ("phys_port_name", "phys_switch_id"):
                _try_to_read(f"{device}/net/{pf}/{name}")
            _try_to_read(f"{device}/numa_node")
            _try_to_read(f"{device}/sriov_numvfs")
            os.readlink(f"{device}/driver")
            if self._netlink:
                connection = connection or _connect(self._host.rtnetlink)
                _exchange(connection, pf)
            else:
                self._read_counters(f"{self._host.net}/{pf}/device/sriov")
        if connection:
            connection.close()

    def _read_counters(self, path: str) -> None:
        # Like the program: open each VF's folder and read its files relative to it.
        for vf in os.listdir(path):
            folder = os.open(f"{path}/{vf}/stats", os.O_RDONLY)
            self._counters = self._counters or os.listdir(folder)
            for name in self._counters:
                file = os.open(name, os.O_RDONLY, dir_fd=folder)
                os.read(file, 4096)
                os.close(file)
            os.close(folder)


def _try_to_read(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    data = os.read(file, 4096)
    os.close(file)
    return data


def _connect(path: str) -> socket.socket:
    """Connect to a simulated host's rtnetlink socket, or without a path to the kernel."""
    if path:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(path)
    else:
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        connection.connect((0, 0))
    return connection


def _exchange(connection: socket.socket, netdev: str) -> bytes:
    connection.send(rtnetlink.request(netdev, 1))
    length = connection.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    return connection.recv(length)


def _request(path: str, netdev: str) -> bytes:
    with _connect(path) as connection:
        return _exchange(connection, netdev)


def reply_about(host: SimulatedHost) -> bytes:
    """Return the raw rtnetlink reply for the host's first PF."""
    reply = host.describe(host.pfs[0].netdev, 1)
    assert reply
    return reply

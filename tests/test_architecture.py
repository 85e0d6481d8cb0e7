"""Architecture rules: readers and collectors are table rows, and a run reads nothing twice."""

from __future__ import annotations

import ast
import builtins
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sriov_textfile.kubelet import podresources
from sriov_textfile.simulate import demo
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from tests.conftest import Host, MakeHost

PACKAGE = Path(__file__).parent.parent / "sriov_textfile"

# --- a reader or a collector is one table row -------------------------------------------------

TOY_READER = """
import sys
from sriov_textfile.host import readers

def read(machine, pf, vfs):
    return {vf: {"toys": 7 + vf} for vf in vfs}

toy = readers.Reader("toy", read, lambda config, pf: "it is only a toy")
readers.READERS = (toy, *readers.READERS)

from sriov_textfile import cli
sys.exit(cli.main())
"""

TOY_COLLECTOR = """
import sys, types
from sriov_textfile import collectors
from sriov_textfile.metrics import Family, labels

def collect(snapshot):
    family = Family("sriov_toys", "gauge", "Toys.")
    family.add(labels(), len(snapshot.pfs))
    return [family]

toybox = types.ModuleType("sriov_textfile.collectors.toybox")
toybox.collect = collect
sys.modules[toybox.__name__] = toybox
collectors.COLLECTORS += (collectors.Collector("toybox", True, "toys"),)

from sriov_textfile import cli
sys.exit(cli.main())
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
    return done.stdout.decode()


def test_adding_a_reader_takes_one_table_row(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, [SimulatedPf(vfs=2, vf_driver="vfio-pci")])
    page = run(TOY_READER, *host.flags)
    assert 'sriov_vf_toys{numa_node="0",pciAddr="0000:11:00.1",pf="ens1f0",vf="1"} 8\n' in page
    assert 'reader="toy"' in page
    assert "sriov_vf_toys" not in run(TOY_READER, *host.flags, "--no-collector.toy")
    help = run(TOY_READER, "--help")
    assert "--collector.toy\n        read VF counters from toy" in help
    assert "(default toy,sysfs,netlink)" in help
    out = run(TOY_READER, "doctor", *host.flags)
    assert "toy reader      serves 2 VFs\n" in out
    assert "sysfs reader    not used: toy served every VF\n" in out
    out = run(TOY_READER, "doctor", *host.flags, "--collector.vfstatspriority=sysfs")
    assert "toy reader      switched off by --collector.toy" in out


def test_adding_a_collector_takes_one_table_row(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, [SimulatedPf(vfs=2, vf_driver="vfio-pci")])
    page = run(TOY_COLLECTOR, *host.flags)
    assert "sriov_toys{} 1\n" in page
    assert 'sriov_scrape_collector_success{collector="toybox"} 1\n' in page
    assert "--collector.toybox\n        collect toys" in run(TOY_COLLECTOR, "--help")
    assert '"name": "toybox"' in run(TOY_COLLECTOR, "doctor", "--json", *host.flags)
    assert "toybox" not in run(
        TOY_COLLECTOR, "doctor", "--json", *host.flags, "--no-collector.toybox"
    )


# --- a run reads each thing once --------------------------------------------------------------


@contextmanager
def counted_opens(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the successful opens and listings of each path below a folder."""
    opened: Counter[str] = Counter()

    def record(path: object, dir_fd: int | None = None) -> None:
        if isinstance(path, int):  # the descriptor of a folder that is already counted
            return
        name = os.fsdecode(path)  # type: ignore[arg-type]
        if dir_fd is not None:
            name = f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{name}"
        name = os.path.normpath(name)
        if name.startswith(f"{root}/"):
            opened[name.removeprefix(f"{root}/")] += 1

    def counting(function: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *arguments: object, **options: object) -> object:
            result = function(path, *arguments, **options)
            record(path, options.get("dir_fd"))  # type: ignore[arg-type]
            return result

        return call

    with monkeypatch.context() as patched:
        for module, name in ((os, "open"), (os, "listdir"), (os, "scandir"), (builtins, "open")):
            patched.setattr(module, name, counting(getattr(module, name)))
        yield opened


@pytest.fixture
def machine(make_host: MakeHost, tmp_path: Path) -> Iterator[tuple[Host, list[str]]]:
    """A host with every kind of PF and with pods, and the flags that enable all collectors."""
    host = make_host(*[demo.pf(number, vfs=3) for number in range(6)])
    node = SimulatedNode(tmp_path, demo.pods(host.pfs))
    with node.running():
        yield host, [*node.flags, "--collector.vfinfo", f"--textfile.path={tmp_path}/sriov.prom"]


@pytest.mark.parametrize("command", ["collect", "doctor"])
def test_a_run_reads_nothing_twice(
    machine: tuple[Host, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    host, flags = machine
    calls = []
    pod_resources = podresources.pod_resources

    def list_pods(path: str, seconds: float) -> podresources.PodResources:
        calls.append(path)
        return pod_resources(path, seconds)

    monkeypatch.setattr(podresources, "pod_resources", list_pods)
    with counted_opens(tmp_path, monkeypatch) as opened:
        host.collect(command, *flags)
    assert len(opened) > 100
    assert {path: count for path, count in opened.items() if count > 1} == {}
    assert len(calls) == 1
    assert host.server.requests == {pf.netdev: 1 for pf in host.pfs if pf.netdev}


# --- problems are data ------------------------------------------------------------------------

TEXTS = {"hint", "meaning", "message", "msg", "reason", "text", "what"}
PARSING = {"endswith", "find", "index", "partition", "rpartition", "split", "startswith"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_message_is_parsed(path: Path) -> None:
    """No decision depends on the wording of a problem, a finding or an exception."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        subject = node.func.value
        is_text = (isinstance(subject, ast.Attribute) and subject.attr in TEXTS) or (
            isinstance(subject, ast.Call)
            and isinstance(subject.func, ast.Name)
            and subject.func.id == "str"
            and ast.unparse(subject.args[0]) == "error"
        )
        assert not (is_text and node.func.attr in PARSING), f"line {node.lineno}"

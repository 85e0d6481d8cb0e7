"""Runs the program on damaged machines, and checks what it must never do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from e2e.fuzz import damage
from e2e.fuzz.machine import Expected, Machine
from e2e.fuzz.servers import Servers
from tests.conftest import WITHOUT_PRIVILEGE

# Run as `python -c PROGRAM SOCKET ARGUMENTS...`: the program on a simulated host.
PROGRAM = """
import sys, types
from sriov_textfile import __main__, cli

def nic(pf):
    from sriov_textfile.host.nic import Nic
    return Nic()

host = types.SimpleNamespace(rtnetlink=sys.argv.pop(1), nic=nic, name="node-1", kernel="Linux")
run = cli.run
cli.run = lambda arguments: run(arguments, host=host)
__main__.main()
"""
_GRACE_SECONDS = 1.0  # after --timeout, to start and to end
_HUNG_SECONDS = 30.0
_LATE = "it took"
# What the interpreter writes about an error that nothing handles, and what the program writes.
_UNHANDLED = re.compile(
    r"Traceback \(most recent call last\)|Exception ignored|Fatal Python error|please report this"
)
_OLD_PAGE = b"# the old file\n"
_FAST_GO = {**os.environ, "GOMAXPROCS": "1", "GOGC": "off"}  # promtool starts a third faster
_PROMTOOL_LINT = 3  # promtool's exit code for names that it dislikes; the page is valid


@dataclass
class Case:
    """What became of one case; `violations` is empty if the program did everything right."""

    seed: int
    damage: list[str]
    command: list[str]
    exit_code: int = -1
    seconds: float = 0.0
    log: str = ""
    pages: int = 0
    counters: int = 0  # in the page, and compared with those of the machine
    violations: list[str] = field(default_factory=list)


class Worker:
    """Runs one case at a time, on machines in a folder."""

    def __init__(
        self, folder: Path, servers: Servers, promtool: Path, program: str = PROGRAM
    ) -> None:
        self.folder = folder
        self.servers = servers
        self.promtool = promtool
        self.program = program

    def run(self, seed: int) -> Case:
        """Run a case and check it. If all that is wrong is that it was late, run it again."""
        case = self._run_once(seed)
        late = all(violation.startswith(_LATE) for violation in case.violations)
        return self._run_once(seed) if case.violations and late else case

    def _run_once(self, seed: int) -> Case:
        folder = self.folder / "machine"
        try:
            machine = Machine(seed, folder, self.servers.rtnetlink, self.servers.kubelet)
            damage.inflict(machine)
            if machine.kubelet.raw:
                machine.paths["path.kubeletsocket"] = self.servers.no_grpc
            self.servers.machine = machine
            try:
                return self._run(seed, machine)
            finally:
                self.servers.machine = None
                machine.close()
        except Exception:  # A long run goes on.
            error = f"the fuzz itself failed: {traceback.format_exc()}"
            return Case(seed, [], [], violations=[error])
        finally:
            shutil.rmtree(folder)

    def _run(self, seed: int, machine: Machine) -> Case:
        textfile = None if machine.command else machine.textfile
        had_old_page = bool(textfile and textfile.parent.is_dir() and _put_old_page(textfile))
        command = [sys.executable, "-c", self.program, machine.rtnetlink, *machine.arguments()]
        case = Case(seed, machine.damage, command)
        start = time.monotonic()
        try:
            done = subprocess.run(
                [*(WITHOUT_PRIVILEGE if machine.unprivileged else []), *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=machine.timeout + _HUNG_SECONDS,
            )
        except subprocess.TimeoutExpired:
            case.violations.append("it did not end")
            return case
        case.seconds = time.monotonic() - start
        case.exit_code = done.returncode
        case.log = done.stderr.decode("utf-8", "replace")
        case.violations += _ending(machine, case)
        output = done.stdout
        if machine.command:
            case.violations += _report(machine, case, output)
        elif case.exit_code:
            if output:
                case.violations.append("it failed, and wrote to standard output")
            if had_old_page and textfile and textfile.read_bytes() != _OLD_PAGE:
                case.violations.append("it failed, and changed the file")
        else:
            if textfile and output:
                case.violations.append("it wrote to standard output as well as to the file")
            page = textfile.read_bytes() if textfile else output
            case.pages = 1
            case.violations += _page(machine, case, page)
            case.violations += self._judged_by_promtool(page)
        return case

    def _judged_by_promtool(self, page: bytes) -> list[str]:
        judged = subprocess.run(
            [self.promtool, "check", "metrics"], input=page, capture_output=True, env=_FAST_GO
        )
        if judged.returncode in (0, _PROMTOOL_LINT):
            return []
        return [f"promtool: {judged.stderr.decode(errors='replace').strip()[:300]}"]


def _put_old_page(path: Path) -> bool:
    """Write an old page, unless something is there or the file cannot exist."""
    if os.path.lexists(path):
        return False
    try:
        path.write_bytes(_OLD_PAGE)
    except OSError:
        return False
    return True


def _ending(machine: Machine, case: Case) -> Iterator[str]:
    """Yield what is wrong with how the program ended."""
    if machine.bad_arguments:
        allowed = {2}
    elif machine.may_fail or not machine.patient:
        allowed = {0, 1}
    else:
        allowed = {0}
    if case.exit_code not in allowed:
        yield f"exit code {case.exit_code}, not {' or '.join(map(str, sorted(allowed)))}"
    if case.seconds > machine.timeout + _GRACE_SECONDS:
        yield f"{_LATE} {case.seconds:.2f} s with --timeout={machine.timeout:g}s"
    if found := _UNHANDLED.search(case.log):
        yield f"an error that nothing handles: {case.log[found.start() :][:2000]}"
    for line in case.log.splitlines():
        if line.startswith("{") and not _is_json(line):
            yield f"a log line that is no JSON: {line[:300]}"


def _is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _report(machine: Machine, case: Case, output: bytes) -> Iterator[str]:
    """Yield what is wrong with doctor's report."""
    if case.exit_code == 2:
        return
    if not output and machine.patient and not machine.hangs:
        yield "doctor wrote no report"
    if output and machine.command.endswith("--json") and not _is_json(output):
        yield f"doctor's report is no JSON: {output[:300]!r}"


def _page(machine: Machine, case: Case, page: bytes) -> Iterator[str]:
    """Yield what is wrong with a page."""
    try:
        text = page.decode()
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        yield f"prometheus_client: {error}"
        return
    lines = text.removesuffix("\n").split("\n")
    types = [line.split(" ")[2:4] for line in lines if line.startswith("# TYPE ")]
    written = [line for line in lines if not line.startswith("#")]
    samples = [sample for family in families for sample in family.samples]
    if len(samples) != len(written):
        yield f"prometheus_client read {len(samples)} samples from {len(written)} lines"
        return
    # prometheus_client changes the names of counters, and its values are floats, with 53 bits.
    names = [re.split("[{ ]", line, maxsplit=1)[0] for line in written]
    values = [line.rpartition(" ")[2] for line in written]
    labels = [sample.labels for sample in samples]
    seen: Counter[object] = Counter([name for name, _ in types])
    seen += Counter([(n, frozenset(of.items())) for n, of in zip(names, labels, strict=True)])
    if repeated := [str(what) for what, count in seen.items() if count > 1]:
        yield f"repeated: {', '.join(repeated)}"
    if ["sriov_textfile_build_info", "gauge"] not in types:
        yield "there are no metrics about the run"
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for name, of, value in zip(names, labels, values, strict=True):
        rdma = name.startswith("sriov_vf_rdma_")
        if name.startswith("sriov_vf_") and not rdma and [name, "counter"] in types:
            vf = found.setdefault((of["pf"], of["vf"], of["pciAddr"]), {})
            if not value.isdecimal():
                yield f"a counter that is no integer: {name} {value}"
                continue
            vf[name.removeprefix("sriov_vf_")] = int(value)
        whole = not machine.damage and machine.patient
        if name == "sriov_scrape_collector_success" and value != "1" and whole:
            yield f"the collector {of['collector']} failed without any damage"
    case.counters = sum([len(counters) for counters in found.values()])
    yield from _counters(machine, found)


def _counters(machine: Machine, found: dict[tuple[str, str, str], dict[str, int]]) -> Iterator[str]:
    """Yield the VFs whose counters are wrong or missing."""
    for (netdev, number), readers in machine.counters.items():
        label = netdev.encode("utf-8", "replace").decode()
        counters = found.pop((label, str(number), machine.addresses[netdev, number]), {})
        wanted = "vfstats" in machine.collectors and machine.selected(netdev)
        usable = [readers[name] for name in machine.readers if name in readers and wanted]
        if not counters and (netdev, number) in machine.lost:
            continue
        if not machine.patient and "netlink" in readers:
            readers["netlink"].lose()
        if not _possible(counters, usable):
            values = [expected.values for expected in usable]
            yield f"VF {number} of {netdev!r} has {counters}, not {' or '.join(map(str, values))}"
    if found and not machine.renamed:
        yield f"VFs that do not exist: {list(found)[:3]}"


def _possible(counters: dict[str, int], readers: list[Expected]) -> bool:
    """Whether the first reader that had counters for a VF may have returned these."""
    for expected in readers:
        if expected.anything or (counters and expected.fits(counters)):
            return True
        if not expected.may_be_missing:
            return False
    return not counters

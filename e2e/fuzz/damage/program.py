"""Damage to the command line and to the output."""

from __future__ import annotations

from e2e.fuzz.damage.files import named, replace
from e2e.fuzz.machine import Machine

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
    return named("output", kind)

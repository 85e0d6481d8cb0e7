"""`make fuzz`: runs many cases, and prints the violations, their seeds and the figures."""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence

from e2e.fuzz import pool
from e2e.fuzz.checks import Case

_PROGRESS_SECONDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that the command line asks for; return 1 if there were violations."""
    parser = argparse.ArgumentParser(prog="python -m e2e.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="number of cases")
    parser.add_argument("--seed", type=int, help="seed of the first case (default: a new one)")
    parser.add_argument("--workers", type=int, default=2, help="cases that run at once")
    options = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"{options.cases} cases, seeds {first} to {first + options.cases - 1}", flush=True)
    figures = Figures(options.cases)
    try:
        for case in pool.run(range(first, first + options.cases), options.workers):
            figures.add(case)
            if case.violations or options.cases == 1:
                _print_case(case)
    except KeyboardInterrupt:
        print("interrupted")
    figures.print()
    return int(figures.violations > 0)


class Figures:
    """Counts what happened, and prints it."""

    def __init__(self, cases: int) -> None:
        self.cases = cases
        self.done = self.pages = self.counters = self.violations = 0
        self.slowest = 0.0
        self.exit_codes: Counter[int] = Counter()
        self.damage: Counter[str] = Counter()
        self._start = self._printed = time.monotonic()

    def add(self, case: Case) -> None:
        """Count a case, and print the progress every few seconds."""
        self.done += 1
        self.pages += case.pages
        self.counters += case.counters
        self.violations += len(case.violations)
        self.slowest = max(self.slowest, case.seconds)
        self.exit_codes[case.exit_code] += 1
        self.damage.update(case.damage or ["none"])
        if time.monotonic() - self._printed > _PROGRESS_SECONDS:
            self._printed = time.monotonic()
            print(f"{self.done} of {self.cases} cases, {self._rates()}", flush=True)

    def print(self) -> None:
        """Print the closing figures."""
        areas: dict[str, list[str]] = {}
        totals: Counter[str] = Counter()
        for name, count in self.damage.most_common():
            area, _, kind = name.partition(": ")
            totals[area] += count
            areas.setdefault(area, []).append(f"{kind} {count}" if kind else "")
        for area, count in totals.most_common():
            print(f"{count:7} {area}: {', '.join(areas[area])}")
        codes = [f"{count} with {code}" for code, count in sorted(self.exit_codes.items())]
        print(f"exit codes: {', '.join(codes)}; slowest case: {self.slowest:.2f} s")
        print(f"pages read by promtool and prometheus_client: {self.pages}")
        print(f"counters compared with those of the machine: {self.counters}")
        print(f"{self.done} cases, {self._rates()}", flush=True)

    def _rates(self) -> str:
        rate = self.done / (time.monotonic() - self._start)
        return f"{self.violations} violations, {rate:.1f} cases per second"


def _print_case(case: Case) -> None:
    print(f"seed {case.seed}: {len(case.violations)} violations")
    for violation in case.violations[:5]:
        print(f"  {violation[:2000]}")
    print(f"  damage: {'; '.join(case.damage) or 'none'}")
    command = shlex.join([repr(word)[1:-1] for word in case.command[4:]])
    print(f"  arguments: {command}")
    print(f"  exit code {case.exit_code} after {case.seconds:.2f} s")
    for line in case.log.splitlines()[:20]:
        print(f"  {line[:300]}")
    print(f"  to repeat: .venv/bin/python -m e2e.fuzz --cases=1 --seed={case.seed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

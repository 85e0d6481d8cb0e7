"""The fuzz: the program survives some hundred damaged machines, and each check can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from e2e.fuzz import pool
from e2e.fuzz.checks import PROGRAM, Worker
from e2e.fuzz.servers import Servers

CASES = 200

# Code that runs before the program, and the violation that the fuzz must report.
DEFECTS = {
    "a series twice": (
        "from sriov_textfile import exposition\n"
        "render = exposition.render\n"
        "exposition.render = lambda families: (\n"
        "    (page := render(families)) + page.splitlines(True)[-1])\n",
        r"repeated: .*sriov_textfile_build_info",
    ),
    "a family twice": (
        "from sriov_textfile import exposition\n"
        "render = exposition.render\n"
        "exposition.render = lambda families: 2 * render(families)\n",
        r"promtool: .*second (HELP|TYPE) line",
    ),
    "a page that is not UTF-8": (
        "from sriov_textfile import exposition\n"
        "render = exposition.render\n"
        "exposition.render = lambda families: render(families) + b'# \\xff\\n'\n",
        r"prometheus_client: .*utf-8",
    ),
    "a wrong counter": (
        "from sriov_textfile import metrics\n"
        "add = metrics.Family.add\n"
        "metrics.Family.add = lambda self, labels, value: (\n"
        "    add(self, labels, value + 1 if self.name == 'sriov_vf_tx_bytes' else value))\n",
        r"VF \d+ of .* has .*'tx_bytes'.*, not ",
    ),
    "a missing counter": (
        "from sriov_textfile.host import rtnetlink, vfsysfs\n"
        "del rtnetlink.VF_STATS[2]\n",
        r"VF \d+ of .* has .*, not .*'rx_bytes'",
    ),
    "a missing VF": (
        "from sriov_textfile.host import pci\n"
        "vfs = pci._vfs\n"
        "pci._vfs = lambda device: dict(list(vfs(device).items())[:-1])\n",
        r"VF \d+ of .* has {}, not ",
    ),
    "a VF that does not exist": (
        "from sriov_textfile.host import pci\n"
        "vfs = pci._vfs\n"
        "pci._vfs = lambda device: {n: '0000:' + at for n, at in vfs(device).items()}\n",
        r"VFs that do not exist",
    ),
    "a traceback": (
        "import threading\n"
        "threading.Thread(target=lambda: 1 / 0).start()\n",
        r"an error that nothing handles: Traceback",
    ),
    "an unexpected error": (
        "from sriov_textfile.host import cpus, rtnetlink\n"
        "rtnetlink.decode_link = None\n",
        r"an error that nothing handles: please report this",
    ),
    "an exit code of its own": (
        "import os\n"
        "real_exit = os._exit\n"
        "os._exit = lambda code: real_exit(3)\n",
        r"exit code 3, not 0",
    ),
    "a log line that is cut off": (
        "from sriov_textfile import log\n"
        "write_line = log.write_line\n"
        "log.write_line = lambda line: write_line(line[:50])\n",
        r"a log line that is no JSON",
    ),
    "more time than --timeout": (
        "import sys, time\n"
        "time.sleep(3.5 if any('-timeout=' in word for word in sys.argv) else 0)\n",
        r"it took .* s with --timeout=",
    ),
    "output although it failed": (
        "import os\n"
        "real_exit = os._exit\n"
        "os._exit = lambda code: (os.write(1, b'x' * code), real_exit(code))\n",
        r"it failed, and wrote to standard output",
    ),
}  # fmt: skip


def test_the_program_survives_damaged_machines() -> None:
    """The cases are the same each time; `make fuzz` tries new ones."""
    command = [sys.executable, "-m", "e2e.fuzz", f"--cases={CASES}", "--seed=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert f"\n{CASES} cases, 0 violations" in done.stdout


@pytest.fixture
def worker() -> Iterator[Worker]:
    with pool.short_folder() as folder:
        servers = Servers(folder)
        with servers.running():
            yield Worker(folder, servers, pool.promtool())


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(worker: Worker, defect: str) -> None:
    code, violation = DEFECTS[defect]
    worker.program = code + PROGRAM
    for seed in range(100):
        if any(re.search(violation, found, re.DOTALL) for found in worker.run(seed).violations):
            return
    pytest.fail("100 cases did not find it")


def test_a_case_follows_from_its_seed(worker: Worker) -> None:
    for seed in range(6):
        first, again = worker.run(seed), worker.run(seed)
        assert (first.damage, first.command) == (again.damage, again.command)
        assert first.exit_code == again.exit_code
        assert first.violations == again.violations == []

"""Memory use of loop mode over ten thousand collections, and runs that have too little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod

PROJECT = Path(__file__).parent.parent

# The real loop, with a Gatherer that counts collections and exits after the last.
PROGRAM = """
import sys
from sriov_textfile import flags, gather
from sriov_textfile.log import Log
from sriov_textfile.outputs import loop, once

def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])

class Counting(gather.Gatherer):
    collections = 0
    def gather(self, seconds=None):
        self.collections += 1
        if self.collections in (100, 10_000):
            print(resident(), flush=True)
        if self.collections == 10_000:
            raise SystemExit(0)
        return super().gather(seconds)

config = flags.config(flags.parse(sys.argv[2:])[1], sys.argv[1])
log = Log()
loop.run(once.Delivery(Counting(config, log), config), config.interval, log)
"""


def test_memory_grows_less_than_a_mebibyte_from_100_to_10000_collections(
    tmp_path: Path,
) -> None:
    pfs = [
        SimulatedPf(vfs=4),
        SimulatedPf(address="0000:20:00.0", netdev="ens2f0", vfs=4, sysfs="none"),
    ]
    # On tmpfs: a disk would only make the test slower.
    path = Path("/dev/shm") / f"sriov-textfile-{tmp_path.name}.prom"
    host = SimulatedHost(tmp_path / "host", pfs)
    try:
        with host.running() as server:
            flags = [*host.flags, "--interval=1ms", f"--textfile.path={path}"]
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, host.rtnetlink, *flags],
                capture_output=True,
                text=True,
                timeout=600,
            )
        assert (done.returncode, done.stderr) == (0, "")
        assert server.requests == {"ens2f0": 9_999}
        after_100, after_10000 = (int(line) for line in done.stdout.split())
        print(f"resident: {after_100} KiB after 100 collections, {after_10000} after 10,000")
        assert after_10000 - after_100 <= 1024
    finally:
        path.unlink(missing_ok=True)


LARGE_HOST = [
    SimulatedPf(
        address=f"0000:{16 * n:02x}:00.0", netdev=f"pf{n}", vfs=256, sysfs="none", vf_driver="ice"
    )
    for n in range(1, 9)
]
ONCE = """
import sys, types
from sriov_textfile import __main__, cli
socket, *arguments = sys.argv[1:]
cli.main = lambda: cli.run(arguments, host=types.SimpleNamespace(rtnetlink=socket))
__main__.main()
"""


# A run that prints its peak memory in MiB, and its threads.
PEAK = """
import sys, types
from sriov_textfile import cli
socket, *arguments = sys.argv[1:]
code = cli.run(arguments, host=types.SimpleNamespace(rtnetlink=socket))
status = dict(line.split(":") for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) // 1024, int(status["Threads"]))
"""


@pytest.mark.parametrize("unit", ["sriov-textfile", "sriov-textfile-kubernetes"])
def test_a_run_needs_half_of_the_memory_and_tasks_of_its_unit(tmp_path: Path, unit: str) -> None:
    """With 2,048 VFs and 250 pods."""
    lines = (PROJECT / f"systemd/{unit}.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    host = SimulatedHost(tmp_path / "host", LARGE_HOST)
    pods = [
        SimulatedPod(
            f"p{n}",
            "core",
            f"{n:032x}",
            [SimulatedContainer("c", f"{n:064x}", "2", {"vf": [LARGE_HOST[0].vf_address(n)]})],
        )
        for n in range(250)
    ]
    node = SimulatedNode(tmp_path, pods)
    path = tmp_path / "sriov.prom"
    with host.running(), node.running():
        words = [host.rtnetlink, *host.flags, "--collector.vfinfo", f"--textfile.path={path}"]
        if unit.endswith("kubernetes"):
            words += node.flags
        command = [sys.executable, "-c", PEAK, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    memory, threads = (int(word) for word in done.stdout.split())
    print(f"{unit}: {memory} MiB, {threads} threads, {path.stat().st_size >> 10} KiB of metrics")
    assert path.read_text().count("\nsriov_vf_rx_bytes{") == 8 * 256
    # The kernel also counts what it caches of the file, and frees that.
    assert memory < int(settings["MemoryMax"].removesuffix("M")) / 2
    assert threads < int(settings["TasksMax"]) / 2


def limited(mebibytes: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a limit on its address space."""
    words = ["sh", "-c", f'ulimit -v {mebibytes * 1024}; exec "$@"', "sh", sys.executable]
    return subprocess.run([*words, *command], capture_output=True, text=True, timeout=60)


def test_a_run_without_enough_memory_keeps_the_old_file(tmp_path: Path) -> None:
    """From a little more than what loading the program takes, to plenty."""
    path = tmp_path / "textfile/sriov.prom"
    path.parent.mkdir()
    host = SimulatedHost(tmp_path / "host", LARGE_HOST)
    codes: list[int] = []
    with host.running():
        for mebibytes in [*range(12, 44), 60, 80, 90, 95, 100, 110, 130, 160, 200]:
            # With less to spare, loading the program may fail in the next process, before main().
            start = limited(mebibytes - 2, "-c", "import types; from sriov_textfile import cli")
            if start.returncode:
                print(f"{mebibytes} MiB: Python does not start")
                continue
            path.write_text("# the old file\n")
            done = limited(
                mebibytes, "-c", ONCE, host.rtnetlink, *host.flags, f"--textfile.path={path}"
            )
            print(f"{mebibytes} MiB: exit {done.returncode} {done.stderr[:150].strip()}")
            codes.append(done.returncode)
            page = path.read_text()
            assert "Traceback" not in done.stderr
            assert set(os.listdir(path.parent)) <= {".sriov.prom.lock", "sriov.prom"}
            if done.returncode:
                assert done.returncode == 1
                assert page == "# the old file\n"
                # Python itself may print "Exception ignored in" if it lacks memory.
                lines = done.stderr.splitlines()
                assert sum("sriov-textfile:" in line or "msg=" in line for line in lines) == 1
            else:
                assert done.stderr == ""
                assert page.count("\nsriov_vf_rx_bytes{") == 8 * 256
                assert page.splitlines()[-1].startswith("sriov_textfile_build_info{")
    assert codes[0] == 1
    assert codes[-1] == 0

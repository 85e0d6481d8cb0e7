"""Memory use of loop mode over ten thousand collections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf

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

"""The simulated host of `sriov-textfile demo`, and its flags."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sriov_textfile import flags
from sriov_textfile.simulate.host import INFINIBAND, SimulatedHost, SimulatedPf


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise ValueError(f"use a whole number from {least} to {most}")
        return int(text)

    return parse


FLAGS = (
    flags.Flag("pfs", _number(1, 64), "3", "physical functions of the simulated host"),
    flags.Flag("vfs", _number(0, 1024), "4", "virtual functions of each"),
)


def pf(number: int, vfs: int) -> SimulatedPf:
    """Return the demo's PF of a number: one of four kinds in turn."""
    domain, slot = divmod(number, 30)
    kind = number % 4
    name = ("ens{}f0", "ens{}f0np0", "ibs{}", "ens{}f1")[kind].format(number + 1)
    return SimulatedPf(
        address=f"{domain:04x}:{16 + 8 * slot:02x}:00.0",
        netdev=name,
        vfs=vfs,
        total_vfs=max(64, vfs),
        driver=("ice", "mlx5_core", "mlx5_core", "i40e")[kind],
        pci_class=INFINIBAND if kind == 2 else "0x020000",
        numa_node=number % 2,
        sysfs=("folder", "none", "file", "none")[kind],
        first_count=1_000_000 * number,
        switchdev=kind == 1,
        vf_driver=("vfio-pci", "mlx5_core", "mlx5_core", "iavf")[kind],
    )


@contextmanager
def host(arguments: Sequence[str]) -> Iterator[SimulatedHost]:
    """Run a host as the command line asks for, in a temporary folder.

    Its counters grow as long as the context lasts. Raises FlagError.
    """
    _, values = flags.parse(arguments, (*flags.FLAGS, *FLAGS))
    pfs, vfs = int(str(values["pfs"])), int(str(values["vfs"]))
    with tempfile.TemporaryDirectory(prefix="sriov-textfile-demo-") as folder:
        simulated = SimulatedHost(Path(folder), [pf(number, vfs) for number in range(pfs)])
        print(f"simulated host: {pfs} PFs with {vfs} VFs each", file=sys.stderr)
        over = threading.Event()
        clock = threading.Thread(target=_keep_counting, args=(simulated, over))
        with simulated.running():
            clock.start()
            try:
                yield simulated
            finally:
                over.set()
                clock.join()


def _keep_counting(simulated: SimulatedHost, over: threading.Event) -> None:
    while not over.wait(1):
        simulated.refresh()

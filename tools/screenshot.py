"""Draws docs/top.svg: the screen of `sriov-textfile demo top` after a minute."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sriov_textfile import flags
from sriov_textfile.simulate import demo
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.top import screen
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.rates import Meter, Table
from sriov_textfile.top.view import View

PICTURE = Path(__file__).parent.parent / "docs/top.svg"
WIDTH, HEIGHT = 132, 22
MINUTE = range(45, 106)  # of the demo: at its end, a link is nearly full
STYLES = {
    screen.TITLE: "reverse",
    screen.HEAD: "bold",
    screen.CURSOR: "reverse",
    screen.DIM: "dim",
    screen.BUSY: "bold red",
    screen.LOST: "bold yellow",
    screen.PROBLEM: "bold red",
}


def main() -> None:
    """Draw the picture."""
    with tempfile.TemporaryDirectory(prefix="sriov-") as folder:
        table = _minute_of_the_demo(Path(folder))
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in screen.draw(View("pod"), table, screen.Status(1.0), WIDTH, HEIGHT):
        console.print(Text.assemble(*[(text, STYLES.get(style, "")) for text, style in line]))
    console.save_svg(str(PICTURE), title="sriov-textfile demo top", unique_id="top")


def _minute_of_the_demo(folder: Path) -> Table:
    second = 0
    pfs = [demo.pf(number, vfs=8) for number in range(3)]
    host = demo.DemoHost(folder, pfs, clock=lambda: second)
    node = SimulatedNode(folder, demo.pods(pfs))
    meter = Meter()
    with host.running(), node.running():
        _, values = flags.parse([*host.flags, *node.flags])
        machine = Machine(flags.config(values, host.rtnetlink), host.name, host.refresh)
        for second in MINUTE:
            sample = machine.sample()
            sample.time = 1_795_780_800 + second
            for pf in sample.pfs:
                pf.read_at = second
            table = meter.update(sample)
    return table


if __name__ == "__main__":
    main()

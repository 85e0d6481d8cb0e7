"""`make bench`: prints tables, writes them as JSON and draws the plot."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import measure, peer, ways
from bench.hosts import host, kubelet
from sriov_textfile.host.rtnetlink import VF_STATS, decode_link
from sriov_textfile.metrics import Family, labels
from sriov_textfile.simulate import demo
from sriov_textfile.simulate.kubernetes import SimulatedNode
from tools import zipapp

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "build/bench.json"
PLOT = PROJECT / "build/performance.svg"
SIZES = ((1, 8), (2, 64), (4, 64), (8, 128), (1, 1024))
GROWTH = (8, 16, 32, 64, 128, 256, 512, 1024)


def collections() -> dict[str, dict[str, measure.Spread]]:
    """Measure a collection per reader and size, with each of the three implementations."""
    found = {}
    for reader in ("sysfs", "netlink"):
        for pfs, vfs in SIZES:
            with host(pfs, vfs, sysfs=reader == "sysfs") as simulated:
                candidates: dict[str, Callable[[], object]] = {
                    "ours": ways.Ours(simulated, reader),
                    "obvious": ways.Obvious(simulated, reader),
                    "floor": ways.Floor(simulated, reader),
                }
                if reader == "netlink" and vfs > 221:
                    del candidates["obvious"]  # pyroute2 loses VFs or fails
                found[f"{reader} {pfs}x{vfs}"] = measure.cpu_seconds(candidates)
    return found


def refreshes() -> dict[str, dict[str, measure.Spread]]:
    """Measure a refresh of top per reader and size, and the parts of it."""
    found = {}
    with ways.terminal() as terminal:
        for reader in ("sysfs", "netlink"):
            for pfs, vfs in ((1, 8), (4, 64), (1, 1024)):
                with host(pfs, vfs, sysfs=reader == "sysfs") as simulated:
                    refresh = ways.Refresh(simulated, reader, terminal)
                    found[f"{reader} {pfs}x{vfs}"] = measure.cpu_seconds(
                        {
                            "collection": ways.Ours(simulated, reader),
                            "sample": refresh.sample,
                            "refresh": refresh,
                        }
                    )
    return found


def growth() -> dict[str, dict[int, measure.Spread]]:
    """Measure a collection of one PF with 8 to 1024 VFs, per reader, ours and the obvious way."""
    found: dict[str, dict[int, measure.Spread]] = {}
    for reader in ("sysfs", "netlink"):
        for vfs in GROWTH:
            with host(1, vfs, sysfs=reader == "sysfs") as simulated:
                candidates: dict[str, Callable[[], object]] = {reader: ways.Ours(simulated, reader)}
                if reader == "sysfs" or vfs <= 221:
                    candidates[f"{reader}, with libraries"] = ways.Obvious(simulated, reader)
                spreads = measure.cpu_seconds(candidates, seconds=1, least=5)
            for name, spread in spreads.items():
                found.setdefault(name, {})[vfs] = spread
    return found


def one_shot() -> dict[str, measure.Process]:
    """Measure a whole run with 1 PF and 8 VFs, bare Python, and importing the libraries."""
    python = sys.executable
    # Compile, as pip does when it installs: PYTHONDONTWRITEBYTECODE may be set.
    compileall.compile_dir(PROJECT / "sriov_textfile", quiet=1)
    with host(1, 8) as simulated, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = f"--textfile.path={folder}/sriov.prom"
        one_file = Path(folder) / "sriov-textfile.pyz"
        zipapp.build(one_file)
        return measure.processes(
            {
                "python -c pass": [python, "-c", "pass"],
                "sriov-textfile": [python, "-m", "sriov_textfile", *simulated.flags, path],
                "sriov-textfile.pyz": [python, "-I", str(one_file), *simulated.flags, path],
                "import of libraries": [python, "-c", "import pyroute2, prometheus_client"],
            }
        )


# Collections in one process, as --interval repeats them, but without the pauses.
_REPEATED = """
import sys
from sriov_textfile import flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.outputs import once
config = flags.config(flags.parse(sys.argv[2:])[1])
delivery = once.Delivery(Gatherer(config, Log()), config)
for _ in range(int(sys.argv[1])):
    delivery.deliver()
"""
_REPEATS = 50


def with_pods() -> dict[str, float]:
    """Return the CPU seconds of a run with pods, and of a collection in a loop.

    The kubelet is one of grpcio, in a process of its own.
    """
    with host(1, 8) as simulated, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        node = SimulatedNode(Path(folder), demo.pods(simulated.pfs))
        path = f"--textfile.path={folder}/sriov.prom"
        arguments = [*simulated.flags, *node.flags, path]
        repeated = [sys.executable, "-c", _REPEATED]
        with kubelet(node):
            found = measure.processes(
                {
                    "run": [sys.executable, "-m", "sriov_textfile", *arguments],
                    "one": [*repeated, "1", *arguments],
                    "many": [*repeated, str(1 + _REPEATS), *arguments],
                },
                rounds=10,
            )
    cpu = {name: process.cpu.median for name, process in found.items()}
    return {"run": cpu["run"], "in a loop": (cpu["many"] - cpu["one"]) / _REPEATS}


def decoding() -> dict[int, dict[str, measure.Spread]]:
    """Measure decode_link, and pyroute2 for as many VFs as it can decode."""
    found = {}
    for vfs in GROWTH:
        with host(1, vfs, sysfs=False) as simulated:
            reply = ways.reply_about(simulated)
        candidates: dict[str, Any] = {"ours": lambda reply=reply: decode_link(reply)}
        if vfs <= 221:
            candidates["pyroute2"] = lambda reply=reply: ways.pyroute2_full_decode(reply)
        found[vfs] = measure.cpu_seconds(candidates, seconds=1.5)
    return found


def rendering() -> dict[str, float]:
    """Measure rendering of 256 VFs with 9 counters each, and the size of the output."""
    from sriov_textfile.exposition import render

    families = [Family(f"sriov_vf_counter_{n}", "counter", "A counter.") for n in range(9)]
    for vf in range(256):
        series = labels(
            numa_node="0", pciAddr=f"0000:11:{vf >> 3:02x}.{vf & 7}", pf="p", vf=str(vf)
        )
        for family in families:
            family.add(series, 1_000_000 * vf)
    samples = 256 * len(families)
    taken = measure.cpu_seconds({"render": lambda: render(families)}, seconds=1)["render"]
    return {
        "nanoseconds per sample": taken.median / samples * 1e9,
        "series per VF, sysfs": len(families),
        "series per VF, netlink": len(VF_STATS),
        "bytes per sample": len(render(families)) / samples,
    }


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--peer", default="", help="binary of the Go exporter, plain or .xz")
    given = parser.parse_args().peer
    with ExitStack() as stack:
        try:
            exporter = stack.enter_context(peer.unpacked(given)) if given else None
            _run(exporter)
        except peer.PeerError as error:
            raise SystemExit(f"PEER={given}: {error}") from None


def _run(exporter: Path | None) -> None:
    python = platform.python_version()
    RESULTS.parent.mkdir(exist_ok=True)
    load = os.getloadavg()[0]
    # Pin to one CPU: the CPUs of a machine can differ in speed.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"Python {python}, load {load:.1f}; medians, with quartiles in brackets", flush=True)
    runs = one_shot()
    _print_runs(runs)
    pods = with_pods()
    print("\na run with pods, the same host")
    for name, seconds in pods.items():
        print(f"  {name:20} CPU {seconds * 1e3:8.3f} ms = {seconds / pods['run']:.3f} of a run")
    collected = collections()
    _print_collections(collected)
    refreshed = refreshes()
    _print_refreshes(refreshed)
    by_vfs = growth()
    _print_growth(by_vfs)
    _draw(by_vfs)
    decoded = decoding()
    _print_decoding(decoded)
    rendered = rendering()
    print("\nthe output")
    for name, value in rendered.items():
        print(f"  {value:.0f} {name}")
    beside = peer.compare(exporter) if exporter else {}
    _print_beside(beside)
    results = {
        "python": python,
        "load": load,
        "with pods": pods,
        "one-shot": {name: asdict(run) for name, run in runs.items()},
        "collections": {
            size: {way: asdict(spread) for way, spread in spreads.items()}
            for size, spreads in collected.items()
        },
        "refreshes": {
            size: {way: asdict(spread) for way, spread in spreads.items()}
            for size, spreads in refreshed.items()
        },
        "growth": {
            way: {vfs: asdict(spread) for vfs, spread in spreads.items()}
            for way, spreads in by_vfs.items()
        },
        "decoding": {
            vfs: {way: asdict(spread) for way, spread in spreads.items()}
            for vfs, spreads in decoded.items()
        },
        "exposition": rendered,
        "beside the Go exporter": {
            size: {name: asdict(cost) for name, cost in costs.items()}
            for size, costs in beside.items()
        },
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {RESULTS.relative_to(PROJECT)} and {PLOT.relative_to(PROJECT)}")


def _print_runs(runs: dict[str, measure.Process]) -> None:
    print("\na whole run, 1 PF with 8 VFs")
    bare = runs["python -c pass"]
    for name, run in runs.items():
        print(
            f"  {name:20} CPU {_ms(run.cpu)} = {run.cpu.median / bare.cpu.median:5.2f} x bare,"
            f"  wall {_ms(run.wall)},"
            f"  memory {run.peak.median / 1024:5.1f} MiB"
            f" = {run.peak.median / bare.peak.median:.2f} x"
        )


def _print_collections(found: dict[str, dict[str, measure.Spread]]) -> None:
    print("\na collection, CPU time in the process")
    for size, spreads in found.items():
        ours, floor = spreads["ours"], spreads["floor"]
        line = (
            f"  {size:15} ours {_ms(ours)}  floor {_ms(floor)} = {ours.median / floor.median:.2f} x"
        )
        if "obvious" in spreads:
            obvious = spreads["obvious"]
            line += f"  obvious {_ms(obvious)}: ours is {ours.median / obvious.median:.3f} of it"
        print(line, flush=True)


def _print_refreshes(found: dict[str, dict[str, measure.Spread]]) -> None:
    print("\na refresh of top, without pods: a sample, the rates and a screen of 80x24")
    for size, spreads in found.items():
        collection = spreads["collection"].median
        ratios = [f"{way} {spread.median / collection:.2f}" for way, spread in spreads.items()]
        print(f"  {size:15} {_ms(spreads['refresh'])}  in collections: {', '.join(ratios[1:])}")


def _print_growth(found: dict[str, dict[int, measure.Spread]]) -> None:
    print("\na collection of one PF, CPU time per VF")
    for way, spreads in found.items():
        each = [f"{vfs}: {spread.median / vfs * 1e6:.1f}" for vfs, spread in spreads.items()]
        print(f"  {way:25} {'  '.join(each)} us", flush=True)


def _draw(found: dict[str, dict[int, measure.Spread]]) -> None:
    """Plot CPU time against the number of VFs into build/performance.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sriov-textfile"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for way, spreads in found.items():
        style = "--" if "libraries" in way else "-"
        color = "tab:blue" if way.startswith("sysfs") else "tab:orange"
        label = way if "libraries" in way else f"{way}, sriov-textfile"
        medians = [spread.median * 1e3 for spread in spreads.values()]
        axes.plot(list(spreads), medians, style, color=color, marker="o", label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="VFs of one PF",
        ylabel="CPU time of a collection, ms",
        xticks=GROWTH,
        xticklabels=GROWTH,
    )
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def _print_decoding(found: dict[int, dict[str, measure.Spread]]) -> None:
    print("\ndecoding a reply")
    for vfs, spreads in found.items():
        ours = spreads["ours"].median
        line = f"  {vfs:5} VFs  ours {_ms(spreads['ours'])} = {ours / vfs * 1e6:.2f} us per VF"
        if "pyroute2" in spreads:
            theirs = spreads["pyroute2"]
            line += f"  pyroute2 {_ms(theirs)}: ours is {ours / theirs.median:.4f} of it"
        print(line, flush=True)


def _print_beside(found: dict[str, dict[str, peer.Cost]]) -> None:
    if not found:
        print(
            "\nNOT MEASURED: the comparison with the Go exporter."
            " Pass its binary: make bench PEER=path"
        )
        return
    print("\na collection beside the Go exporter, CPU time and memory of the process")
    for size, costs in found.items():
        for name, cost in costs.items():
            ratio = cost.cpu.median / costs[peer.EXPORTER].cpu.median
            print(
                f"  {size:6} {name:12} CPU {_ms(cost.cpu)} = {ratio:.3f} x,"
                f"  memory {cost.rss / 1024:.1f} MiB RSS, {cost.pss / 1024:.1f} MiB PSS"
            )


def _ms(spread: measure.Spread) -> str:
    low, high = spread.lower * 1e3, spread.upper * 1e3
    return f"{spread.median * 1e3:8.3f} ms [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()

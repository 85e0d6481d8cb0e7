"""`make fleet`: a real Prometheus with our rules scrapes simulated nodes, and is measured."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import dashboard
from e2e import nodes
from e2e.conftest import Prometheus, free_port, running_prometheus
from e2e.fleet import RULES
from tools.fetch import CACHE, debian_packages, say

PROJECT = Path(__file__).parent.parent.parent
RESULTS = PROJECT / "build/fleet.json"
SCRAPE_SECONDS = 15
SUITES = {"2": "trixie", "3": "sid"}  # Debian's suites by major version of Prometheus
# A rate over five minutes is complete, and all rules have been evaluated since then.
WARM_UP_MINUTES = 10
# In a storm, alerts are also firing (`for: 10m`).
STORM_MINUTES = 16
MEASURED_MINUTES = 5
ONE_NODE = {"cluster": "cluster-1", "instance": "node-0001"}


@contextmanager
def prometheus(
    program: Path, work: Path, address: str, clusters: Mapping[str, int]
) -> Iterator[Prometheus]:
    """Run Prometheus with our rules on simulated nodes until the context ends."""
    own = f"127.0.0.1:{free_port()}"
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": "10s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [
            *nodes.scrape_configs(address, clusters),
            {"job_name": "simulator", "static_configs": [{"targets": [address]}]},
            {"job_name": "prometheus", "static_configs": [{"targets": [own]}]},
        ],
    }
    with running_prometheus(program, work, config, address=own) as server:
        yield server


def measured(server: Prometheus) -> dict[str, Any]:
    """Return what Prometheus reports about itself over the last minutes, and the queries' times."""
    window = f"[{MEASURED_MINUTES}m]"
    me = 'job="prometheus"'

    def value(expression: str) -> float:
        """Return the value of an expression, 0 if it has none."""
        return sum(float(sample["value"][1]) for sample in server.query(expression))

    groups: dict[str, dict[str, Any]] = {}
    for sample in server.query(f"prometheus_rule_group_interval_seconds{{{me}}}"):
        group, interval = sample["metric"]["rule_group"], float(sample["value"][1])
        chosen = f'{{rule_group="{group}"}}'
        last = f"prometheus_rule_group_last_duration_seconds{chosen}"
        groups[group.rpartition(";")[2]] = {
            "interval": interval,
            "median": value(f"quantile_over_time(0.5, {last}{window})"),
            "longest": value(f"max_over_time({last}{window})"),
            "missed": value(f"prometheus_rule_group_iterations_missed_total{chosen}"),
            "failed": value(f"prometheus_rule_evaluation_failures_total{chosen}"),
        }
    for loaded in server.get("rules")["groups"]:
        last_seconds = {rule["name"]: rule["evaluationTime"] for rule in loaded["rules"]}
        groups[loaded["name"]]["last_seconds"] = last_seconds
    durations = f'scrape_duration_seconds{{job="node"}}{window}'
    (build,) = server.query(f"prometheus_build_info{{{me}}}")
    minutes = value(f"(time() - process_start_time_seconds{{{me}}}) / 60")
    result = {
        "prometheus": build["metric"]["version"],
        "cores": os.cpu_count(),
        "minutes": minutes,
        "nodes": value('sum(up{job="node"})'),
        "vfs": value("count(sriov_vf_rx_packets)"),
        "dropping_vfs": value("sum(pf:sriov_vf_dropping:count)"),
        "pending_alerts": value('count(ALERTS{alertstate="pending"})'),
        "firing_alerts": value('count(ALERTS{alertstate="firing"})'),
        "series": value(f"prometheus_tsdb_head_series{{{me}}}"),
        "samples_per_second": value(
            f"rate(prometheus_tsdb_head_samples_appended_total{{{me}}}{window})"
        ),
        "memory_bytes": value(f"max_over_time(process_resident_memory_bytes{{{me}}}[1d])"),
        "cpus": value(f"rate(process_cpu_seconds_total{{{me}}}{window})"),
        "simulator_cpus": value(f'rate(process_cpu_seconds_total{{job="simulator"}}{window})'),
        "scrape_seconds": {
            "median": value(f"quantile(0.5, avg_over_time({durations}))"),
            "p99": value(f"quantile(0.99, max_over_time({durations}))"),
            "longest": value(f"max(max_over_time({durations}))"),
        },
        "groups": groups,
    }
    say("timing the queries of the dashboard")
    timings = dashboard.timings(server.url, ONE_NODE, minutes * 60)
    result["queries"] = [dataclasses.asdict(timing) for timing in timings]
    return result


def title(result: Mapping[str, Any]) -> str:
    """Return which fleet and which Prometheus a result is about."""
    return (
        f"{result['nodes']:.0f} nodes with {result['vfs']:.0f} VFs, "
        f"{result['dropping_vfs']:.0f} dropping, Prometheus {result['prometheus']}"
    )


def report(result: Mapping[str, Any]) -> None:
    """Print a result as tables, and keep it in a file with others."""
    scrape = result["scrape_seconds"]
    print(
        f"\n{title(result)}, after {result['minutes']:.0f} minutes on {result['cores']} cores\n"
        f"  {result['series']:,.0f} series, {result['samples_per_second']:,.0f} samples/s, "
        f"{result['memory_bytes'] / 2**30:.2f} GiB, {result['cpus']:.2f} CPUs "
        f"(simulated nodes: {result['simulator_cpus']:.2f})\n"
        f"  scrape: median {scrape['median'] * 1e3:.0f} ms, 99% {scrape['p99'] * 1e3:.0f} ms, "
        f"longest {scrape['longest'] * 1e3:.0f} ms; {result['pending_alerts']:.0f} alerts pending, "
        f"{result['firing_alerts']:.0f} firing\n"
        f"  {'rule group':20} interval   median  longest  share  missed failed"
    )
    for name, group in result["groups"].items():
        print(
            f"  {name:20} {group['interval']:6.0f} s {group['median']:6.2f} s "
            f"{group['longest']:6.2f} s {group['longest'] / group['interval']:6.1%} "
            f"{group['missed']:7.0f} {group['failed']:6.0f}"
        )
    queries = sorted(result["queries"], key=lambda query: -query["seconds"])
    late = [query for query in queries if query["seconds"] > 2]
    large = [query for query in queries if query["series"] > 200]
    failed = [query for query in queries if query["error"]]
    print(
        f"  {len(queries)} queries: {len(late)} take more than 2 s, {len(large)} return more than "
        f"200 series, {len(failed)} fail. The slowest, and these:"
    )
    for query in queries:
        if query in [*queries[:10], *late, *large, *failed]:
            print(
                f"  {query['seconds']:8.2f} s {query['series']:7} series  {query['kind']:8}"
                f"{query['variables']:9} {query['panel']}  {query['error']}"
            )
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**results, title(result): result}, indent=1) + "\n")
    say(f"wrote {os.path.relpath(RESULTS)}")


def run(options: argparse.Namespace, count: int) -> None:
    """Measure one size of fleet."""
    suite = SUITES[options.prometheus]
    program = debian_packages(["prometheus"], CACHE / f"prometheus-{suite}", suite=suite)
    program /= "usr/bin/prometheus"
    minutes = options.minutes or (STORM_MINUTES if options.storm else WARM_UP_MINUTES)
    clusters = {
        f"cluster-{number + 1}": (count + number) // options.clusters
        for number in range(options.clusters)
    }
    with (
        tempfile.TemporaryDirectory(prefix="sriov-fleet-", dir=options.work) as work,
        nodes.served(nodes.pfs(options.vfs, options.storm)) as address,
        prometheus(program, Path(work), address, clusters) as server,
    ):
        say(f"{server.url} scrapes {count} nodes for {minutes:g} minutes")
        time.sleep(minutes * 60)
        report(measured(server))
        if options.keep:
            say(f"{server.url} stays until you press Ctrl-C")
            signal.pause()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sizes of fleet that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    add = parser.add_argument
    add("--nodes", type=int, nargs="+", default=[10, 100, 1000], metavar="N", help="fleet sizes")
    add("--vfs", type=int, default=64, metavar="N", help="VFs of each node (default 64)")
    add("--clusters", type=int, default=4, metavar="N", help="of equal size (default 4)")
    add(
        "--storm",
        type=int,
        nargs="?",
        const=sys.maxsize,
        default=0,
        metavar="N",
        help="N VFs of each PF drop packets; without N, every VF",
    )
    add("--minutes", type=float, metavar="N", help="how long Prometheus scrapes first")
    add("--prometheus", choices=sorted(SUITES), default="2", help="major version (default 2)")
    add("--work", type=Path, metavar="DIRECTORY", help="where Prometheus's data goes")
    add("--keep", action="store_true", help="keep Prometheus running, for queries of your own")
    add("--url", help="measure a Prometheus that --keep keeps running")
    options = parser.parse_args(arguments)
    if options.url:
        report(measured(Prometheus(options.url)))
        return
    for count in options.nodes:
        run(options, count)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import dashboard
from e2e import nodes
from e2e.conftest import Prometheus, free_port, started
from tools.fetch import CACHE, debian_packages, say

PROJECT = Path(__file__).parent.parent.parent
RESULTS = PROJECT / "build/fleet.json"
RULES = sorted((PROJECT / "deployment/prometheus/rules").glob("*.yml"))
SCRAPE_SECONDS = 15
SUITES = {"2": "trixie", "3": "sid"}  # Debian's suites by major version of Prometheus
# A rate over five minutes is complete, and all rules have been evaluated since then.
WARM_UP_MINUTES = 8
# In a storm, alerts are also firing (`for: 10m`).
STORM_MINUTES = 16
MEASURED_MINUTES = 3


@contextmanager
def prometheus(
    program: Path, work: Path, count: int, clusters: int, address: str, port: int
) -> Iterator[Prometheus]:
    """Run Prometheus with our rules on a number of nodes until the context ends."""
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": "10s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [
            {
                "job_name": "node",
                "honor_labels": True,
                "static_configs": nodes.targets(count, clusters, address),
            },
            {"job_name": "simulator", "static_configs": [{"targets": [address]}]},
            {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
        ],
    }
    (work / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command: list[str | Path] = [
        program,
        f"--web.listen-address=127.0.0.1:{port}",
        f"--config.file={work}/prometheus.yml",
        f"--storage.tsdb.path={work}/tsdb",
    ]
    url = f"http://127.0.0.1:{port}"
    with started(command, work / "prometheus.log", f"{url}/-/ready"):
        yield Prometheus(url, [])


def measured(server: Prometheus) -> dict[str, Any]:
    """Return what the Prometheus reports about itself over the last minutes."""
    window = f"[{MEASURED_MINUTES}m]"

    def value(expression: str) -> float:
        return max((float(s["value"][1]) for s in server.query(expression)), default=float("nan"))

    me = '{job="prometheus"}'
    durations = f'scrape_duration_seconds{{job="node"}}{window}'
    groups = {}
    for sample in server.query(f"prometheus_rule_group_interval_seconds{me}"):
        group = sample["metric"]["rule_group"]
        chosen = f'{{rule_group="{group}"}}'
        seconds = value(
            f"max_over_time(prometheus_rule_group_last_duration_seconds{chosen}{window})"
        )
        interval = float(sample["value"][1])
        groups[group.rpartition(";")[2]] = {
            "interval": interval,
            "seconds": seconds,
            "share": seconds / interval,
            "missed": value(f"prometheus_rule_group_iterations_missed_total{chosen}"),
            "failed": value(f"prometheus_rule_evaluation_failures_total{chosen}"),
        }
    return {
        "nodes": value('sum(up{job="node"})'),
        "series": value(f"prometheus_tsdb_head_series{me}"),
        "samples_per_second": value(
            f"rate(prometheus_tsdb_head_samples_appended_total{me}{window})"
        ),
        "memory_bytes": value(f"max_over_time(process_resident_memory_bytes{me}[1h])"),
        "cpu": value(f"rate(process_cpu_seconds_total{me}{window})"),
        "simulator_cpu": value(f'rate(process_cpu_seconds_total{{job="simulator"}}{window})'),
        "scrape_seconds": {
            "median": value(f"quantile(0.5, avg_over_time({durations}))"),
            "p99": value(f"quantile(0.99, max_over_time({durations}))"),
            "max": value(f"max(max_over_time({durations}))"),
        },
        "alerts": {
            state: value(f'count(ALERTS{{alertstate="{state}"}})')
            for state in ("pending", "firing")
        },
        "groups": groups,
    }


def report(result: dict[str, Any]) -> None:
    """Print a result as tables."""
    print(f"\n{result['title']}, Prometheus {result['version']}")
    print(
        f"  {result['series']:,.0f} series, {result['samples_per_second']:,.0f} samples/s, "
        f"{result['memory_bytes'] / 2**30:.2f} GiB, {result['cpu']:.2f} CPUs "
        f"(simulated nodes: {result['simulator_cpu']:.2f})"
    )
    scrape = result["scrape_seconds"]
    print(
        f"  scrape: median {scrape['median'] * 1e3:.0f} ms, 99% {scrape['p99'] * 1e3:.0f} ms, "
        f"longest {scrape['max'] * 1e3:.0f} ms; alerts: {result['alerts']}"
    )
    print(f"  {'rule group':20} {'interval':>8} {'seconds':>8} {'share':>6} {'missed':>6} failed")
    for name, group in result["groups"].items():
        print(
            f"  {name:20} {group['interval']:8.0f} {group['seconds']:8.2f} {group['share']:6.1%} "
            f"{group['missed']:6.0f} {group['failed']:6.0f}"
        )
    if queries := result.get("queries"):
        print_queries(queries)


def print_queries(queries: Sequence[dict[str, Any]]) -> None:
    """Print the slowest queries, those with too many series, and those that failed."""
    ordered = sorted(queries, key=lambda query: -query["seconds"])
    late = [query for query in ordered if query["seconds"] > 2]
    large = [query for query in ordered if query["series"] > 200]
    failed = [query for query in ordered if query["error"]]
    print(
        f"  {len(queries)} queries: {len(late)} take more than 2 s, {len(large)} return more than "
        f"200 series, {len(failed)} fail"
    )
    shown = [query for query in ordered if query in ordered[:10] or query in large + failed]
    for query in shown:
        print(
            f"  {query['seconds']:8.2f} s {query['series']:7} series  {query['kind']:8} "
            f"{query['variables']:10} {query['panel']}  {query['error']}"
        )


def timed(url: str, history: float) -> list[dict[str, Any]]:
    """Run every query of the dashboard."""
    say("timing the queries of the dashboard")
    node = {"cluster": "cluster-1", "instance": "node-0001"}
    return [dataclasses.asdict(timing) for timing in dashboard.timings(url, node, history)]


def run(options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Measure one size of fleet."""
    suite = SUITES[options.prometheus]
    folder = debian_packages(["prometheus"], CACHE / f"prometheus-{suite}", suite=suite)
    minutes = options.minutes or (STORM_MINUTES if options.storm else WARM_UP_MINUTES)
    kind = "every VF drops packets" if options.storm else "healthy"
    title = f"{count} nodes with {options.vfs} VFs, {kind}"
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="sriov-fleet-", dir=options.work) as work,
        nodes.served(options.vfs, options.storm) as address,
        prometheus(
            folder / "usr/bin/prometheus", Path(work), count, options.clusters, address, port
        ) as server,
    ):
        start = time.time()
        say(f"{title}: Prometheus at {server.url}, scraping for {minutes:g} minutes")
        time.sleep(minutes * 60)
        (build,) = server.query("prometheus_build_info")
        result = {
            "title": title,
            "version": build["metric"]["version"],
            "minutes": minutes,
            **measured(server),
        }
        result["queries"] = timed(server.url, time.time() - start)
        report(result)
        if options.keep:
            say(f"Prometheus stays at {server.url} until you press Ctrl-C")
            signal.pause()
    return result


def main() -> None:
    """Measure the sizes of fleet that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000], metavar="N")
    parser.add_argument("--vfs", type=int, default=64, metavar="N", help="VFs of each node")
    parser.add_argument("--clusters", type=int, default=4, metavar="N")
    parser.add_argument("--storm", action="store_true", help="every VF drops packets")
    parser.add_argument("--minutes", type=float, metavar="N", help="scrape for so long first")
    parser.add_argument("--prometheus", choices=sorted(SUITES), default="2", help="major version")
    parser.add_argument("--keep", action="store_true", help="keep the last Prometheus running")
    parser.add_argument("--work", type=Path, metavar="DIRECTORY", help="for Prometheus's data")
    parser.add_argument(
        "--url", help="only time the dashboard's queries, on a Prometheus that --keep has kept"
    )
    options = parser.parse_args()
    if options.url:
        print_queries(timed(options.url, dashboard.RANGE_SECONDS))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    RESULTS.parent.mkdir(exist_ok=True)
    for count in options.nodes:
        result = run(options, count)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[f"{result['title']}, Prometheus {result['version']}"] = result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    say(f"wrote {os.path.relpath(RESULTS)}")


if __name__ == "__main__":
    main()

"""From the command line to one mode of the program, and to an exit code.

0: the metrics were delivered, or doctor found nothing; 1: they could not be, or it found
something; 2: the command line is wrong.
"""

from __future__ import annotations

import sys

from sriov_textfile import __version__, flags
from sriov_textfile.collectors import COLLECTORS
from sriov_textfile.config import Config
from sriov_textfile.gather import Gatherer, missing
from sriov_textfile.log import Log, say
from sriov_textfile.outputs import once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sriov_textfile.simulate.host import SimulatedHost

_USAGE = """\
usage: sriov-textfile [COMMAND] [FLAGS]

Metrics of SR-IOV virtual functions, and of the pods and CPUs that use them, for Prometheus.

commands:
  collect   gather once and write --textfile.path=FILE.prom, or standard output (the default)
            --interval=15s collects again and again until SIGTERM
  serve     answer GET /metrics on --web.listen-address
  doctor    show every PF and VF, and say why a metric is missing; --json for machines
  demo      run any command on a simulated host; see sriov-textfile demo --help

flags:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program as the command line says and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["demo"]:
            from sriov_textfile.simulate import demo

            with demo.host(arguments[1:]) as (paths, host):
                table = (*flags.FLAGS, *demo.FLAGS)
                return run([*paths, *arguments[1:]], table, host)
        return run(arguments)
    except flags.FlagError as error:
        say(f"sriov-textfile: {error}")
        return 2
    except ModuleNotFoundError as error:
        say(f"sriov-textfile: {missing(error)}")
        return 1
    except OSError as error:  # The demo's, for the program itself handles its own.
        say(f"sriov-textfile: {error}")
        return 1


def run(
    arguments: Sequence[str],
    table: Sequence[flags.Flag] = flags.FLAGS,
    host: SimulatedHost | None = None,
) -> int:
    """Run any command but demo and return the exit code.

    A simulated `host` answers in the kernel's stead. Raises FlagError.
    """
    words, values = flags.parse(arguments, table)
    if values["help"]:
        return _show(_USAGE + flags.usage(table))
    if values["version"]:
        return _show(f"sriov-textfile {__version__} (Python {sys.version.partition(' ')[0]})\n")
    command = " ".join(words) or "collect"
    if "demo" in words:
        raise flags.FlagError("demo must be the first word: sriov-textfile demo [COMMAND] [FLAGS]")
    if command not in ("collect", "serve", "doctor"):
        raise flags.FlagError(
            f"unknown command {command}; use collect, serve, doctor or demo,"
            " and give a boolean flag its value as --flag=false"
        )
    config = _config(values, host.rtnetlink if host else "")
    if command == "doctor":
        return _doctor(config, bool(values["json"]), host)
    if values["json"]:
        raise flags.FlagError("--json goes with doctor")
    log = Log(config.log_level, config.log_format)
    gatherer = Gatherer(config, log)
    return (_serve if command == "serve" else _collect)(gatherer, config, log)


def _collect(gatherer: Gatherer, config: Config, log: Log) -> int:
    if config.interval:
        from sriov_textfile.outputs import loop

        loop.run(gatherer, config.textfile_path, config.interval, log)
        return 0
    try:
        once.collect(gatherer, config.textfile_path)
    except once.DeliveryError as error:
        log.error(str(error))
        return 1
    return 0


def _serve(gatherer: Gatherer, config: Config, log: Log) -> int:
    for name, given in (("interval", config.interval), ("textfile.path", config.textfile_path)):
        if given:
            raise flags.FlagError(f"--{name} goes with collect; serve collects when it is asked")
    from sriov_textfile.outputs import http

    try:
        http.serve(gatherer, config, log)
    except http.ListenError as error:
        log.error(str(error))
        return 1
    return 0


def _doctor(config: Config, json: bool, host: SimulatedHost | None) -> int:
    from sriov_textfile.doctor import examine, findings, show
    from sriov_textfile.host import nic

    try:
        report = examine.examine(config, host.nic if host else nic.describe)
    except examine.ExamineError as error:
        say(f"sriov-textfile: {error}")
        return 1
    report.findings = findings.findings(report)
    text = show.as_json(report) if json else show.as_text(report, *show.terminal())
    return _show(text) or int(bool(report.findings))


def _show(text: str) -> int:
    try:
        # Paths and netdevs may have any bytes.
        once.print_all(text.encode("utf-8", "backslashreplace"))
    except once.DeliveryError as error:
        say(f"sriov-textfile: {error}")
        return 1
    return 0


def _config(values: dict[str, object], rtnetlink: str) -> Config:
    priority = values["collector.vfstatspriority"]
    assert isinstance(priority, tuple)
    return Config(
        collectors=frozenset(c.name for c in COLLECTORS if values[f"collector.{c.name}"]),
        vfstats_priority=tuple(reader for reader in priority if values[f"collector.{reader}"]),
        pf_include=values["collector.pf-include"],
        pf_exclude=values["collector.pf-exclude"],
        cpucheckpoint=values["path.cpucheckpoint"],
        kubecgroup=values["path.kubecgroup"],
        kubeletsocket=values["path.kubeletSocket"],
        nodecpuinfo=values["path.nodecpuinfo"],
        sysbuspci=values["path.sysbuspci"],
        sysclassnet=values["path.sysclassnet"],
        textfile_path=values["textfile.path"],
        interval=values["interval"],
        timeout=values["timeout"],
        listen_address=values["web.listen-address"],
        rate_burst=values["web.rate-burst"],
        rate_limit=values["web.rate-limit"],
        log_level=values["log.level"],
        log_format=values["log.format"],
        rtnetlink=rtnetlink,
    )

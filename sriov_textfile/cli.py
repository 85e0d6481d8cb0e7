"""The command line: runs one command and returns its exit code.

Exit code 0: the metrics were delivered, doctor has no findings, top has shown all samples; 1: the
command failed, or doctor has findings; 2: the command line is wrong.
"""

from __future__ import annotations

import sys

from sriov_textfile import __version__, flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log, write_line
from sriov_textfile.outputs import once
from sriov_textfile.problems import ProblemError
from sriov_textfile.snapshots import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sriov_textfile.config import Config
    from sriov_textfile.problems import Problem
    from sriov_textfile.simulate.host import SimulatedHost

COMMANDS = {
    "collect": "collect once and print the metrics, or write them to --textfile.path=FILE.prom;"
    " with --interval=15s, repeat until SIGTERM (the default command)",
    "serve": "serve GET /metrics over HTTP on --web.listen-address, until SIGTERM",
    "doctor": "show every PF and VF, and explain why a metric is missing; without flags, with those"
    " of the service on this host",
    "top": "show which pods and VFs use the links, as it happens; as plain lines if standard output"
    " is not a terminal, or with --batch",
    "demo": "run any command on a simulated host: demo [COMMAND]",
    "help": "print this help, or the help of a command: help COMMAND",
    "version": "print the version",
}
PURPOSE = "Metrics for SR-IOV virtual functions, and for the pods and CPUs that use them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; `arguments` defaults to the command line."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except flags.FlagError as error:
        write_line(f"sriov-textfile: {error}")
        return 2


def run(arguments: Sequence[str], host: SimulatedHost | None = None) -> int:
    """Run a command and return its exit code; `host` is a simulated host to run it on.

    Raises FlagError.
    """
    words, values = flags.parse(arguments)
    demo = words[:1] == ["demo"]
    words = words[demo:]
    if values[flags.HELP] or words[:1] == ["help"]:
        return _show(_help([word for word in words if word != "help"], demo))
    if values[flags.VERSION] or words == ["version"]:
        return _show(f"sriov-textfile {__version__} (Python {sys.version.partition(' ')[0]})\n")
    command = _command(words)
    values.check(*(["demo"] if demo else []), command)
    if demo and host is None:
        return _demo(arguments, command, values)
    views = {"doctor": _doctor, "top": _top}
    if command in views:
        return views[command](values, host)
    config = flags.config(values, host.rtnetlink if host else "")
    log = Log(config.log_level, config.log_format)
    if command == "serve":
        return _serve(config, log)
    return _loop(config, log) if config.interval else _collect(config, log)


def _command(words: Sequence[str]) -> str:
    """Return the command to run; raises FlagError if the words are not one command."""
    if not words:
        return "collect"
    command, *more = words
    if command in ("true", "false"):
        raise flags.FlagError(
            f"unexpected argument {command}; set a boolean flag with --flag={command}"
        )
    if command in ("demo", "help", "version"):
        extra = f" {more[0]}" if more else ""
        raise flags.FlagError(f"cannot run {command}{extra} here; see sriov-textfile --help")
    if command not in ("collect", "serve", "doctor", "top"):
        near = flags.similar(command, COMMANDS)
        hint = f"did you mean {near}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise flags.FlagError(f"unknown command {command}; {hint}")
    if more:
        raise flags.FlagError(f"unexpected argument {more[0]} after {command}; see --help")
    return command


def _help(words: Sequence[str], demo: bool) -> str:
    """Return the help of a command, or of the program; raises FlagError."""
    names = [*["demo"] * demo, *words]
    if not names:
        commands = "".join([_wrapped(f"  {name:<9} ", text) for name, text in COMMANDS.items()])
        usage = "[COMMAND] [FLAGS]"
        return (
            f"usage: sriov-textfile {usage}\n\n{PURPOSE}\n\n"
            f"commands:\n{commands}\nflags:\n{flags.usage()}"
        )
    usage, purpose = " ".join(names), "; ".join([COMMANDS.get(name, "") for name in names])
    if names == ["demo"]:
        usage, names = "demo [COMMAND]", ["demo", "collect"]
    else:
        _command(words)
    return (
        f"usage: sriov-textfile {usage} [FLAGS]\n\n{_wrapped('', purpose)}\n"
        f"flags:\n{flags.usage(*names)}"
    )


def _wrapped(start: str, text: str) -> str:
    import textwrap  # Only for help.

    indent = " " * len(start)
    return textwrap.fill(text, 80, initial_indent=start, subsequent_indent=indent) + "\n"


def _demo(arguments: Sequence[str], command: str, values: flags.Values) -> int:
    from contextlib import ExitStack

    from sriov_textfile.simulate import demo

    with ExitStack() as stack:
        try:
            paths, host = stack.enter_context(demo.host(values[flags.PFS], values[flags.VFS]))
        except OSError as error:
            write_line(
                f"sriov-textfile: cannot create the simulated host: {error};"
                " set TMPDIR to a writable directory"
            )
            return 1
        code = run([*paths, *arguments], host)
    if command == "collect" and code == 0 and not values[flags.TEXTFILE_PATH]:
        for line in demo.next_steps().splitlines():
            write_line(line)
    return code


def _collect(config: Config, log: Log) -> int:
    gatherer = Gatherer(config, log)
    try:
        once.Delivery(gatherer, config).deliver()
        if not config.textfile_path and gatherer.count() == (0, 0):
            write_line("sriov-textfile: found no PF; run sriov-textfile doctor to see why")
    except once.DeliveryError as error:
        log.problems("delivery", {"error": [error.problem]})
        return 1
    except SnapshotError:  # The collection has logged the cause.
        pass
    return 0


def _loop(config: Config, log: Log) -> int:
    if missing := _missing("--interval"):
        return missing
    from sriov_textfile.outputs import loop

    gatherer = Gatherer(config, log)
    _log_start(gatherer, log, "loop", path=config.textfile_path or "standard output")
    loop.run(once.Delivery(gatherer, config), config.interval, log)
    return 0


def _serve(config: Config, log: Log) -> int:
    if missing := _missing("serve"):
        return missing
    if config.web_config_file and (missing := _missing("--web.config.file")):
        return missing
    from sriov_textfile.outputs.http import server

    gatherer = Gatherer(config, log)

    def started(address: str) -> None:
        _log_start(gatherer, log, "serve", address=address)

    try:
        server.serve(gatherer, config, log, started)
    except (server.ListenError, ProblemError) as error:
        log.error(str(error))
        return 1
    return 0


def _log_start(gatherer: Gatherer, log: Log, mode: str, **where: str) -> None:
    try:
        pfs, vfs = gatherer.count()
    except SnapshotError:  # Each collection logs the cause.
        log.info("started", version=__version__, mode=mode, **where)
    else:
        log.info("started", version=__version__, mode=mode, **where, pfs=pfs, vfs=vfs)


def _missing(mode: str) -> int:
    """Print a message and return 1 if the mode lacks a Python package; else return 0."""
    from sriov_textfile import packages

    try:
        packages.require(mode)
    except packages.MissingPackageError as error:
        write_line(f"sriov-textfile: {error}")
        return 1
    return 0


def _doctor(values: flags.Values, host: SimulatedHost | None) -> int:
    from sriov_textfile.doctor import examine, findings, service, show

    json = values[flags.JSON]
    services = service.find() if values.has_only(flags.JSON) else []
    if services:
        try:
            values = flags.parse(services[0].arguments)[1]
        except flags.FlagError as error:
            write_line(f"sriov-textfile: the flags of {services[0].name} are wrong: {error}")
            return 1
    config = flags.config(values, host.rtnetlink if host else "")
    try:
        report = examine.examine(config, host.nic if host else None)
    except SnapshotError as error:
        write_line(f"sriov-textfile: {error}")
        return 1
    if config.web_config_file:
        report.failed += _web_config_problems(config.web_config_file)
    report.flags_of = [service.name for service in services]
    report.findings = findings.findings(report)
    if host:
        report.host, report.kernel = host.name, host.kernel
    text = show.as_json(report) if json else show.as_text(report, *show.terminal())
    return _show(text) or int(bool(report.findings))


def _web_config_problems(path: str) -> list[Problem]:
    from sriov_textfile import packages

    try:
        packages.require("--web.config.file")
        from sriov_textfile.outputs.http.web_config import WebConfigFile

        WebConfigFile(path).current()
    except ProblemError as error:
        return [error.problem]
    return []


def _top(values: flags.Values, host: SimulatedHost | None) -> int:
    if values[flags.RECORD] and values[flags.REPLAY]:
        raise flags.FlagError("--record and --replay exclude each other")
    if values[flags.JSON] and values[flags.BY]:
        raise flags.FlagError("--json has the rows of pods, VFs and PFs; leave out --by")
    if not values[flags.COLLECTOR_FLAGS["vfstats"]]:
        raise flags.FlagError("top shows what vfstats collects; leave out --no-collector.vfstats")
    if not (host or values[flags.REPLAY]):
        values = _with_paths_of_service(values)
    config = flags.config(values, host.rtnetlink if host else "")
    from sriov_textfile.top import command
    from sriov_textfile.top.machine import Machine

    options = command.Options(
        batch=values[flags.BATCH],
        json=values[flags.JSON],
        count=values[flags.COUNT],
        by=values[flags.BY],
        record=values[flags.RECORD],
        replay=values[flags.REPLAY],
    )
    machine = Machine(config, host.name, host.refresh_without_rdma) if host else Machine(config)
    try:
        return command.run(config, options, machine, once.print_all)
    except once.ClosedPipeError:  # head, or a pager that was quit
        return 0
    except ProblemError as error:
        write_line(f"sriov-textfile: {error}")
        return 1


def _with_paths_of_service(values: flags.Values) -> flags.Values:
    """Return the values with the paths of the service on this host, unless they were given.

    In a container, the kubelet's socket is not where it is on the host.
    """
    from sriov_textfile.doctor import service

    services = service.find()
    if not services:
        return values
    try:
        return values.completed(flags.parse(services[0].arguments)[1], flags.PATHS)
    except flags.FlagError:  # doctor reports it.
        return values


def _show(text: str) -> int:
    try:
        # Paths and netdev names may contain any bytes.
        once.print_all(text.encode("utf-8", "backslashreplace"))
    except once.OutputError as error:
        write_line(f"sriov-textfile: {error}")
        return 1
    return 0

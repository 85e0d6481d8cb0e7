"""The table of flags, Go-style parsing of the command line, and the Config made from it.

Parsing, --help and the reference in the README all use the table.
"""

from __future__ import annotations

from sriov_textfile import log
from sriov_textfile.collectors import COLLECTORS
from sriov_textfile.config import Config
from sriov_textfile.host.readers import READERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Sequence
    from typing import Generic, TypeVar

    Value_co = TypeVar("Value_co", covariant=True)
else:
    Value_co = None

    class Generic:
        """Stands in for typing.Generic: importing typing takes a quarter of a run."""

        __slots__ = ()

        def __class_getitem__(cls, parameter):
            return cls


class FlagError(ValueError):
    """Raised for a wrong command line; the message is one line: what is wrong and how to fix it."""


class Flag(Generic[Value_co]):
    """One flag: `parse` turns its text into a value, or raises ValueError with a hint.

    `commands` are the commands that accept the flag; empty means all commands. `values` are those
    that a shell can complete.
    """

    __slots__ = ("commands", "default", "help", "name", "parse", "values")

    def __init__(
        self,
        name: str,
        parse: Callable[[str], Value_co],
        default: str,
        help: str,
        *commands: str,
        values: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.parse = parse
        self.default = default
        self.help = help
        self.commands = commands
        self.values = ("true", "false") if parse is boolean else values


class Values:
    """The value of every flag: from the command line, or else the default."""

    def __init__(self, given: dict[str, object]) -> None:
        self._given = given

    def __getitem__(self, flag: Flag[Value_co]) -> Value_co:
        """Return the value of a flag."""
        if flag.name in self._given:
            value: Value_co = self._given[flag.name]  # type: ignore[assignment]
            return value
        return flag.parse(flag.default)

    def has_only(self, *flags: Flag[object]) -> bool:
        """Return whether no other flags were given on the command line."""
        return self._given.keys() <= {flag.name for flag in flags}

    def completed(self, others: Values, flags: Iterable[Flag[object]]) -> Values:
        """Return these values, and those of `others` for flags that were not given here."""
        names = {flag.name for flag in flags}
        more = {name: value for name, value in others._given.items() if name in names}
        return Values({**more, **self._given})

    def check(self, *commands: str) -> None:
        """Raise FlagError if a flag was given that none of the commands accepts."""
        for flag in FLAGS:
            if flag.name in self._given and not _accepts(commands, flag):
                command = flag.commands[0]
                raise FlagError(
                    f"--{flag.name} is a flag of {command}, not of {commands[-1]};"
                    f" see sriov-textfile {command} --help"
                )


def _accepts(commands: Iterable[str], flag: Flag[Value_co]) -> bool:
    return not flag.commands or any(command in flag.commands for command in commands)


def boolean(text: str) -> bool:
    """Return a text as a boolean; accepts the same texts as Go's strconv.ParseBool."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("use true or false")


_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def duration(text: str) -> float:
    """Return the seconds in a Go duration such as 1m30s, or in a plain number of seconds."""
    seconds, rest = 0.0, text if text[-1:].isalpha() else text + "s"
    while rest:
        after_number = rest.lstrip("0123456789.")
        number = rest[: len(rest) - len(after_number)]
        rest = after_number.lstrip("hmsuµn")
        unit = after_number[: len(after_number) - len(rest)]
        if unit not in _SECONDS or number.count(".") > 1 or not number.strip("."):
            raise ValueError("use a duration such as 15s, 1m30s or 500ms")
        seconds += float(number) * _SECONDS[unit]
    if not 0.001 <= seconds <= 86400:
        raise ValueError("use a duration from 1ms to 24h")
    return seconds


def interval(text: str) -> float:
    """Return the seconds in a duration; 0, a single collection, for an empty text."""
    return 0.0 if text == "" else duration(text)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser for whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) < 8
        if not (digits and least <= int(text) <= most):
            raise ValueError(f"use a whole number from {least} to {most}")
        return int(text)

    return parse


def regexp(text: str) -> re.Pattern[str] | None:
    """Return a compiled regular expression, or None for an empty text."""
    if not text:
        return None
    import re  # It takes 6 ms to import, and most runs have no regular expression.
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python reads [[:alpha:]] as a set, and warns
            return re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"use a regular expression in Python's syntax ({error})") from None


def readers(text: str) -> tuple[str, ...]:
    """Return the reader names in a comma-separated list, without duplicates."""
    known = [reader.name for reader in READERS]
    names = [name.strip().lower() for name in text.split(",")]
    if any(name not in known for name in names):
        raise ValueError(f"use a comma-separated list of readers, such as {','.join(known)}")
    return tuple(dict.fromkeys(names))


def prom_path(text: str) -> str:
    """Return the path of a .prom file, or "" for standard output."""
    if text in ("", "-"):
        return ""
    if not text.endswith(".prom"):
        raise ValueError("use a path that ends in .prom: node_exporter ignores other files")
    return text


def listen_address(text: str) -> tuple[str, int]:
    """Return host and port of a Go listen address: :9808, 10.0.0.1:9808, [::1]:9808."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or (":" in bare) != (bare != host) or not port.isascii() or not port.isdecimal():
        raise ValueError("use HOST:PORT, :PORT or [IPV6]:PORT")
    if len(port) > 5 or int(port) > 65535:
        raise ValueError("use a port from 0 to 65535")
    return bare, int(port)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts one of `choices`, case-insensitively."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"use {', '.join(choices[:-1])} or {choices[-1]}")
        return text.lower()

    return parse


_GROUPS = ("pod", "vf", "pf")


def group(text: str) -> str:
    """Return the kind of rows that top shows, or "" for the default."""
    return text and one_of(*_GROUPS)(text)


COLLECTOR_FLAGS = {
    collector.name: Flag(
        f"collector.{collector.name}",
        boolean,
        str(collector.default).lower(),
        f"collect {collector.help}",
    )
    for collector in COLLECTORS
}
READER_FLAGS = {
    reader.name: Flag(
        f"collector.{reader.name}", boolean, "true", f"read VF counters from {reader.name}"
    )
    for reader in READERS
}
PRIORITY = Flag(
    "collector.vfstatspriority",
    readers,
    ",".join([reader.name for reader in READERS]),
    "readers of VF counters, in the order to try them",
    values=[reader.name for reader in READERS],
)
PF_INCLUDE = Flag(
    "collector.pf-include",
    regexp,
    "",
    "only PFs whose netdev has a match for this regular expression",
)
PF_EXCLUDE = Flag(
    "collector.pf-exclude",
    regexp,
    "",
    "no PFs whose netdev has a match for this regular expression",
)
CPUCHECKPOINT = Flag(
    "path.cpucheckpoint",
    str,
    "/var/lib/kubelet/cpu_manager_state",
    "checkpoint file of the kubelet's CPU manager",
)
KUBECGROUP = Flag(
    "path.kubecgroup", str, "/sys/fs/cgroup/cpuset/kubepods/", "directory of the pods' cgroups"
)
KUBELETSOCKET = Flag(
    "path.kubeletSocket",
    str,
    "/var/lib/kubelet/pod-resources/kubelet.sock",
    "the kubelet's PodResources socket",
)
NODECPUINFO = Flag(
    "path.nodecpuinfo", str, "/sys/devices/system/node/", "directory of the NUMA nodes"
)
SYSBUSPCI = Flag("path.sysbuspci", str, "/sys/bus/pci/devices", "directory of the PCI devices")
SYSCLASSNET = Flag("path.sysclassnet", str, "/sys/class/net/", "directory of the network devices")
TIMEOUT = Flag("timeout", duration, "10s", "time limit for one whole collection")
LOG_LEVEL = Flag(
    "log.level",
    one_of(*log.LEVELS),
    "info",
    "lowest level to log: debug, info, warn, error",
    values=log.LEVELS,
)
LOG_FORMAT = Flag(
    "log.format",
    one_of(*log.FORMATS),
    "logfmt",
    "log format: logfmt, json",
    values=log.FORMATS,
)
TEXTFILE_PATH = Flag(
    "textfile.path",
    prom_path,
    "",
    "the .prom file to write; empty means standard output",
    "collect",
    "doctor",
)
INTERVAL = Flag(
    "interval",
    interval,
    "",
    "repeat with this pause, such as 15s; empty means once, and 1s in top",
    "collect",
    "doctor",
    "top",
)
LISTEN_ADDRESS = Flag(
    "web.listen-address", listen_address, ":9808", "address to listen on", "serve", "doctor"
)
WEB_CONFIG_FILE = Flag(
    "web.config.file",
    str,
    "",
    "file with TLS, client certificates, users and headers, in the format of node_exporter's",
    "serve",
    "doctor",
)
SYSTEMD_SOCKET = Flag(
    "web.systemd-socket",
    boolean,
    "false",
    "listen on the sockets of a systemd .socket unit, not on --web.listen-address",
    "serve",
    "doctor",
)
RATE_BURST = Flag(
    "web.rate-burst",
    whole_number(1, 1_000_000),
    "10",
    "requests in a row that the rate limit allows",
    "serve",
    "doctor",
)
RATE_LIMIT = Flag(
    "web.rate-limit",
    whole_number(1, 1_000_000),
    "1",
    "requests allowed per second",
    "serve",
    "doctor",
)
JSON = Flag("json", boolean, "false", "print JSON; in top, one object per sample", "doctor", "top")
BATCH = Flag("batch", boolean, "false", "print plain lines, even on a terminal", "top")
COUNT = Flag(
    "count",
    whole_number(0, 1_000_000),
    "0",
    "print this many samples as plain lines, and exit; 0 means until interrupted",
    "top",
)
BY = Flag(
    "by",
    group,
    "",
    "rows by pod, vf or pf; empty means by pod if the kubelet lists pods with VFs, else by vf",
    "top",
    values=_GROUPS,
)
RECORD = Flag(
    "record",
    str,
    "",
    "file to append the samples to, for --replay; at 128 MiB it becomes FILE.1, replacing the last",
    "top",
)
REPLAY = Flag("replay", str, "", "file to show instead of this machine", "top")
PFS = Flag("pfs", whole_number(1, 64), "3", "number of simulated PFs", "demo")
VFS = Flag("vfs", whole_number(0, 1024), "8", "number of VFs on each PF", "demo")
HELP = Flag("help", boolean, "false", "print this help")
VERSION = Flag("version", boolean, "false", "print the version")

FLAGS: tuple[Flag[object], ...] = (
    *COLLECTOR_FLAGS.values(),
    *READER_FLAGS.values(),
    PRIORITY,
    PF_INCLUDE,
    PF_EXCLUDE,
    CPUCHECKPOINT,
    KUBECGROUP,
    KUBELETSOCKET,
    NODECPUINFO,
    SYSBUSPCI,
    SYSCLASSNET,
    TEXTFILE_PATH,
    INTERVAL,
    TIMEOUT,
    LISTEN_ADDRESS,
    WEB_CONFIG_FILE,
    SYSTEMD_SOCKET,
    RATE_BURST,
    RATE_LIMIT,
    LOG_LEVEL,
    LOG_FORMAT,
    JSON,
    BATCH,
    COUNT,
    BY,
    RECORD,
    REPLAY,
    PFS,
    VFS,
    HELP,
    VERSION,
)


PATHS = tuple([flag for flag in FLAGS if flag.name.startswith("path.")])


def config(values: Values, rtnetlink: str = "") -> Config:
    """Return the Config; `rtnetlink` is a simulated host's socket, or "" for the kernel."""
    return Config(
        collectors=frozenset([name for name, flag in COLLECTOR_FLAGS.items() if values[flag]]),
        vfstats_priority=tuple([name for name in values[PRIORITY] if values[READER_FLAGS[name]]]),
        pf_include=values[PF_INCLUDE],
        pf_exclude=values[PF_EXCLUDE],
        cpucheckpoint=values[CPUCHECKPOINT],
        kubecgroup=values[KUBECGROUP],
        kubeletsocket=values[KUBELETSOCKET],
        nodecpuinfo=values[NODECPUINFO],
        sysbuspci=values[SYSBUSPCI],
        sysclassnet=values[SYSCLASSNET],
        textfile_path=values[TEXTFILE_PATH],
        interval=values[INTERVAL],
        timeout=values[TIMEOUT],
        listen_address=values[LISTEN_ADDRESS],
        web_config_file=values[WEB_CONFIG_FILE],
        web_systemd_socket=values[SYSTEMD_SOCKET],
        rate_burst=values[RATE_BURST],
        rate_limit=values[RATE_LIMIT],
        log_level=values[LOG_LEVEL],
        log_format=values[LOG_FORMAT],
        rtnetlink=rtnetlink,
    )


def parse(arguments: Sequence[str]) -> tuple[list[str], Values]:
    """Return the words of a command line and the values of the flags.

    As with Go's flag package, -flag and --flag are equivalent, and a value follows as =value or
    as the next word. --no-flag turns a boolean off, names are case-insensitive, -h is --help, and
    the last occurrence of a flag wins. Raises FlagError.
    """
    known = {flag.name.lower(): flag for flag in FLAGS}
    known["h"] = HELP
    given: dict[str, object] = {}
    words = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            continue
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        flag = known.get(name.lower())
        if flag is None:
            flag = _negated(name, known)
            if flag is None:
                raise FlagError(_unknown(argument.partition("=")[0], name, known))
            if equals:
                raise FlagError(f"--no-{flag.name} takes no value; use --{flag.name}=false")
            text = "false"
        elif not equals and flag.parse is boolean:
            text = "true"
        elif not equals:
            if not rest:
                raise FlagError(f"--{flag.name} needs a value: --{flag.name}=VALUE")
            text = rest.pop(0)
        try:
            given[flag.name] = flag.parse(text)
        except ValueError as error:
            raise FlagError(f"--{flag.name}={text[:200]}: {error}") from None
    return words, Values(given)


def _negated(name: str, known: dict[str, Flag[object]]) -> Flag[object] | None:
    if not name.lower().startswith("no-"):
        return None
    flag = known.get(name.lower()[3:])
    return flag if flag and flag.parse is boolean else None


def _unknown(argument: str, name: str, known: dict[str, Flag[object]]) -> str:
    near = similar(name.lower(), known)
    hint = f"did you mean --{known[near].name}?" if near else "see --help"
    return f"unknown flag {argument}; {hint}"


def similar(word: str, known: Iterable[str]) -> str:
    """Return the known word that is closest to a misspelled one, or "" if none is close."""
    import difflib  # Slow to import, and only used for an error message.

    return "".join(difflib.get_close_matches(word, known, n=1))


def reference() -> str:
    """Return the table of flags in Markdown, for the README."""
    rows = [
        f"| `{flag.name}` | {f'`{flag.default}`' if flag.default else ''} | {_described(flag)} |\n"
        for flag in FLAGS
    ]
    return "".join(["| flag | default | |\n|---|---|---|\n", *rows])


def _described(flag: Flag[object]) -> str:
    return f"{flag.commands[0]}: {flag.help}" if flag.commands else flag.help


def usage(*commands: str) -> str:
    """Return the flags of the given commands as --help prints them, their own flags first."""
    lines = []
    for flag in accepted(*commands):
        default = f" (default {flag.default})" if flag.default not in ("", "false") else ""
        help = flag.help if commands else _described(flag)
        lines.append(f"  --{flag.name}\n        {help}{default}\n")
    return "".join(lines)


def accepted(*commands: str) -> list[Flag[object]]:
    """Return the flags of the given commands, their own flags first; without commands, all."""
    found = [flag for flag in FLAGS if not commands or _accepts(commands, flag)]
    found.sort(key=lambda flag: _rank(flag, commands))
    return found


def _rank(flag: Flag[object], commands: Sequence[str]) -> int:
    """Return the sort key of a flag in --help: flags of the first command, of the next, of all."""
    for place, command in enumerate(commands):
        if command in flag.commands[:1]:
            return place
    return len(commands)

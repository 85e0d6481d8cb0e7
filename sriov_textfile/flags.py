"""The table of flags, and their parsing as Go programs do it.

The table is the one source for parsing, for --help and for the reference in the README.
"""

from __future__ import annotations

from sriov_textfile import log
from sriov_textfile.collectors import COLLECTORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence

READERS = ("sysfs", "netlink")


class FlagError(ValueError):
    """Raised for a wrong command line; says in one line what is wrong and how to mend it."""


class Flag:
    """One flag. `parse` makes its value of a text and raises ValueError with the mend."""

    __slots__ = ("default", "help", "name", "parse")

    def __init__(self, name: str, parse: Callable[[str], object], default: str, help: str) -> None:
        self.name = name
        self.parse = parse
        self.default = default
        self.help = help


def boolean(text: str) -> bool:
    """Return the boolean that Go's strconv.ParseBool makes of a text."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("use true or false")


_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def duration(text: str) -> float:
    """Return the seconds in a duration as Go writes it, such as 1m30s, or in plain seconds."""
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
    """Return the seconds in a duration; an empty text, no repetition, is 0."""
    return 0.0 if text == "" else duration(text)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser that takes a whole number between two bounds."""

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
    import re  # Costs 6 ms, and most runs have no use for it.
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # [[:alpha:]] is for Python a set, and a warning
            return re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"use a regular expression as Python has them ({error})") from None


def readers(text: str) -> tuple[str, ...]:
    """Return the readers in a comma-separated list, each once."""
    names = [name.strip().lower() for name in text.split(",")]
    if any(name not in READERS for name in names):
        raise ValueError(f"use a list of the readers {' and '.join(READERS)}: {','.join(READERS)}")
    return tuple(dict.fromkeys(names))


def prom_path(text: str) -> str:
    """Return a path that node_exporter would read, or "" for standard output."""
    if text in ("", "-"):
        return ""
    if not text.endswith(".prom"):
        raise ValueError("node_exporter reads only files whose names end in .prom")
    return text


def listen_address(text: str) -> tuple[str, int]:
    """Return host and port of an address as Go writes it: :9808, 10.0.0.1:9808, [::1]:9808."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or (":" in bare) != (bare != host) or not port.isascii() or not port.isdecimal():
        raise ValueError("use HOST:PORT, :PORT or [IPV6]:PORT")
    if len(port) > 5 or int(port) > 65535:
        raise ValueError("use a port from 0 to 65535")
    return bare, int(port)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of some words."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"use {', '.join(choices[:-1])} or {choices[-1]}")
        return text.lower()

    return parse


FLAGS = (
    *(
        Flag(f"collector.{c.name}", boolean, str(c.default).lower(), f"collect {c.help}")
        for c in COLLECTORS
    ),
    Flag("collector.netlink", boolean, "true", "let the netlink reader read VF counters"),
    Flag("collector.sysfs", boolean, "true", "let the sysfs reader read VF counters"),
    Flag(
        "collector.vfstatspriority",
        readers,
        ",".join(READERS),
        "readers of VF counters in the order they are asked",
    ),
    Flag("collector.pf-include", regexp, "", "regular expression: only PFs whose netdev matches"),
    Flag("collector.pf-exclude", regexp, "", "regular expression: no PFs whose netdev matches"),
    Flag("path.cpucheckpoint", str, "/var/lib/kubelet/cpu_manager_state", "CPU manager checkpoint"),
    Flag("path.kubecgroup", str, "/sys/fs/cgroup/cpuset/kubepods/", "Kubernetes' cgroups"),
    Flag(
        "path.kubeletSocket",
        str,
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "kubelet's PodResources socket",
    ),
    Flag("path.nodecpuinfo", str, "/sys/devices/system/node/", "NUMA nodes and their CPUs"),
    Flag("path.sysbuspci", str, "/sys/bus/pci/devices", "PCI devices"),
    Flag("path.sysclassnet", str, "/sys/class/net/", "network devices"),
    Flag("textfile.path", prom_path, "", "file to write, FILE.prom; standard output without one"),
    Flag("interval", interval, "", "collect again and again, this long after each collection"),
    Flag("timeout", duration, "10s", "how long one whole collection may take"),
    Flag("web.listen-address", listen_address, ":9808", "address that serve listens on"),
    Flag("web.rate-burst", whole_number(1, 1_000_000), "10", "requests that serve answers at once"),
    Flag(
        "web.rate-limit", whole_number(1, 1_000_000), "1", "requests that serve answers each second"
    ),
    Flag("log.level", one_of(*log.LEVELS), "info", "least level that is logged"),
    Flag("log.format", one_of(*log.FORMATS), "logfmt", "format of log lines: logfmt or json"),
    Flag("json", boolean, "false", "let doctor print JSON"),
    Flag("help", boolean, "false", "print this help"),
    Flag("version", boolean, "false", "print the version"),
)


def parse(
    arguments: Sequence[str], flags: Sequence[Flag] = FLAGS
) -> tuple[list[str], dict[str, object]]:
    """Return the words of a command line, and every flag's value by its name.

    -flag, --flag and --flag=value are understood as Go's package flag does it, with --no-flag
    for a boolean, in any case of letters; the last of several wins. Raises FlagError.
    """
    known = {flag.name.lower(): flag for flag in flags}
    values = {flag.name: flag.parse(flag.default) for flag in flags}
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
            values[flag.name] = flag.parse(text)
        except ValueError as error:
            raise FlagError(f"--{flag.name}={text[:200]}: {error}") from None
    return words, values


def _negated(name: str, known: dict[str, Flag]) -> Flag | None:
    if not name.lower().startswith("no-"):
        return None
    flag = known.get(name.lower()[3:])
    return flag if flag and flag.parse is boolean else None


def _unknown(argument: str, name: str, known: dict[str, Flag]) -> str:
    import difflib  # For this message only.

    near = difflib.get_close_matches(name.lower(), known, n=1)
    mend = f"did you mean --{known[near[0]].name}?" if near else "see --help"
    return f"unknown flag {argument}; {mend}"


def reference(flags: Sequence[Flag] = FLAGS) -> str:
    """Return the table as Markdown."""
    rows = [
        f"| `{flag.name}` | {f'`{flag.default}`' if flag.default else ''} | {flag.help} |\n"
        for flag in flags
    ]
    return "".join(["| flag | default | |\n|---|---|---|\n", *rows])


def usage(flags: Sequence[Flag] = FLAGS) -> str:
    """Return the table as --help prints it."""
    lines = []
    for flag in flags:
        default = f" (default {flag.default})" if flag.default not in ("", "false") else ""
        lines.append(f"  --{flag.name}\n        {flag.help}{default}\n")
    return "".join(lines)

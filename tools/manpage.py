"""Writes the man page sriov-textfile.1, from the tables of commands and flags."""

from __future__ import annotations

import re
import time

from sriov_textfile import __version__, cli, flags

_EXAMPLES = {
    "Print the metrics of this host:": "sriov-textfile",
    "Write the file for node_exporter's textfile collector once:": "sriov-textfile"
    " --textfile.path=/var/lib/prometheus/node-exporter/sriov.prom",
    "Write it every 15 seconds, with the devices and CPUs of pods:": "sriov-textfile --interval=15s"
    " --collector.kubepoddevice --collector.kubepodcpu"
    " --textfile.path=/var/lib/prometheus/node-exporter/sriov.prom",
    "Serve HTTP on port 9808:": "sriov-textfile serve",
    "Find out why a metric is missing:": "sriov-textfile doctor",
    "See which pods use the links, live:": "sriov-textfile top",
    "Put the traffic of ten seconds into a ticket:": "sriov-textfile top --count=1 --interval=10s",
    "See all of it without SR-IOV hardware:": "sriov-textfile demo doctor",
}
_EXIT_STATUS = {
    "0": "The metrics were written; doctor has no findings; top has shown all samples.",
    "1": "The command failed, and the old file is unchanged; doctor has findings or did not"
    " finish; top could not read or record a sample.",
    "2": "The command line is wrong.",
}
_FILES = {
    "/etc/default/sriov-textfile": "Flags of the services. The package keeps your changes.",
    "/var/lib/prometheus/node-exporter/sriov.prom": "The metrics, as the services write them.",
    "/var/lib/prometheus/node-exporter/.sriov.prom.lock": "Lock of that file.",
}
_UNITS = {
    "sriov-textfile.timer": "Writes the metrics of VFs and PFs every 15 seconds.",
    "sriov-textfile-kubernetes.service": "Writes these and the metrics of pods and their CPUs every"
    " 15 seconds.",
    "sriov-textfile-http.service": "Serves HTTP on port 9808.",
}


_DESCRIPTION = """\
The packets of SR-IOV virtual functions (VFs) bypass the host's kernel. This program reads each VF's
counters from the driver of the physical function (PF), and exports them for Prometheus: in a file
for node_exporter's textfile collector, or over HTTP.

It must run in the host's network namespace and see the host's /sys. Metrics of VFs need no root;
metrics of pods and their CPUs do."""
_FLAGS = """\
-flag, --flag=value and --flag value are equivalent. --no-flag turns off a boolean. Names are
case-insensitive."""


def page(seconds: int) -> str:
    """Return the man page, with the date of a Unix time."""
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    lines = [
        f'.TH SRIOV\\-TEXTFILE 1 "{date}" "sriov\\-textfile {__version__}" "User Commands"',
        ".nh",  # no hyphenation, nor wide spaces: both make names and paths hard to read
        ".ad l",
        ".SH NAME",
        f"sriov\\-textfile \\- {_roff(cli.PURPOSE[0].lower() + cli.PURPOSE[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B sriov\\-textfile",
        "[\\fICOMMAND\\fR] [\\fIFLAGS\\fR]",
        ".SH DESCRIPTION",
        _roff(_DESCRIPTION).replace("\n\n", "\n.PP\n"),
        ".SH COMMANDS",
        *_tagged({name: _sentence(text) for name, text in cli.COMMANDS.items()}),
        ".SH FLAGS",
        _roff(_FLAGS),
    ]
    own = [flag for flag in flags.FLAGS if flag.commands]
    for command in dict.fromkeys([flag.commands[0] for flag in own]):
        lines += [f".SS Flags of {command}"]
        lines += _tagged_flags([flag for flag in own if flag.commands[0] == command])
    lines += [".SS Flags of all commands"]
    lines += _tagged_flags([flag for flag in flags.FLAGS if not flag.commands])
    lines += [".SH EXIT STATUS", *_tagged(_EXIT_STATUS)]
    lines += [".SH FILES", *_tagged(_FILES), ".SS Units of systemd", *_tagged(_UNITS)]
    lines += [".SH EXAMPLES"]
    for what, command in _EXAMPLES.items():
        lines += [".PP", _roff(what), ".PP", ".RS 4", ".nf", _roff(command), ".fi", ".RE"]
    lines += [".SH SEE ALSO", ".BR prometheus\\-node\\-exporter (1),", ".BR systemd.timer (5)"]
    return "\n".join(lines) + "\n"


def _tagged_flags(own: list[flags.Flag[object]]) -> list[str]:
    lines = []
    for flag in own:
        name = f"\\fB\\-\\-{_roff(flag.name)}\\fR"
        if flag.parse is not flags.boolean:
            name += "=\\fIVALUE\\fR"
        default = f" Default: {flag.default}" if flag.default else ""
        lines += [".TP", name, _roff(f"{_sentence(flag.help)}{default}")]
    return lines


def _tagged(texts: dict[str, str]) -> list[str]:
    return [
        line for tag, text in texts.items() for line in (".TP", f".B {_roff(tag)}", _roff(text))
    ]


def _roff(text: str) -> str:
    """Return a text with its special characters escaped, see groff_man(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", escaped)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."

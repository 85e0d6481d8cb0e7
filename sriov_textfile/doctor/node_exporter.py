"""Finds the node_exporters that run, and the folder whose .prom files each reads.

The command line: /proc/<pid>/cmdline, proc(5).
"""

from __future__ import annotations

import os

from sriov_textfile.doctor.report import NodeExporter

# Where a program reads if its flag says nothing: Debian's has a default of its own.
_DEFAULT_FOLDERS = {
    "node_exporter": "",
    "prometheus-node-exporter": "/var/lib/prometheus/node-exporter",
}
_FOLDER_FLAG = "--collector.textfile.directory"

# The first PID namespace's inode number, PROC_PID_INIT_INO in the kernel's linux/proc_ns.h.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


def running(folder: str, proc: str = "/proc") -> list[NodeExporter]:
    """Return the node_exporters that run, and for each whether it reads `folder`."""
    found = []
    for name in sorted(os.listdir(proc)) if os.path.isdir(proc) else []:
        if name.isdecimal() and (words := _command_line(f"{proc}/{name}/cmdline")):
            program = os.path.basename(words[0])
            if program in _DEFAULT_FOLDERS:
                reads = _folder(words[1:], _DEFAULT_FOLDERS[program])
                same = bool(reads) and _is_same(folder, reads, f"{proc}/{name}")
                found.append(NodeExporter(int(name), reads, same))
    return found


def sees_processes(proc: str = "/proc") -> bool:
    """Return whether the host's processes are seen, as they are not in most containers."""
    try:
        return os.readlink(f"{proc}/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _command_line(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")]
    except OSError:  # It has ended.
        return []


def _folder(words: list[str], default: str) -> str:
    """Return the folder that a node_exporter with these arguments reads; "" for none."""
    off = "--collector.disable-defaults" in words and "--collector.textfile" not in words
    if off or "--no-collector.textfile" in words:
        return ""
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == _FOLDER_FLAG:
            return value if equals else "".join(words[position + 1 : position + 2])
    return default


def _is_same(folder: str, reads: str, process: str) -> bool:
    """Return whether a path of ours and a path of a process', in a container or not, are one."""
    try:
        return os.path.samefile(folder, f"{process}/root{reads}")
    except OSError:  # Only root may look; or one of them is not there.
        return os.path.realpath(folder) == os.path.realpath(reads)

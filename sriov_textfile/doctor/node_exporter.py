"""Finds the running node_exporters, and the directories whose .prom files each reads."""

from __future__ import annotations

import fnmatch
import glob
import os

from sriov_textfile.doctor import processes
from sriov_textfile.doctor.report import NodeExporter

# The directories that a program reads without the flag: Debian's build has a default.
_DEFAULT_FOLDERS: dict[str, list[str]] = {
    "node_exporter": [],
    "prometheus-node-exporter": ["/var/lib/prometheus/node-exporter"],
}
_FOLDER_FLAG = "--collector.textfile.directory"

# The first PID namespace's inode number, PROC_PID_INIT_INO in the kernel's linux/proc_ns.h.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


def running(folder: str, proc: str = "/proc") -> list[NodeExporter]:
    """Return the running node_exporters, and for each whether it reads `folder`."""
    found = []
    for pid, words in processes.running(proc):
        program = os.path.basename(words[0])
        if program in _DEFAULT_FOLDERS:
            folders = _folders(words[1:]) or _DEFAULT_FOLDERS[program]
            if _is_off(words):
                folders = []
            reads_ours = _reads(folder, folders, f"{proc}/{pid}")
            found.append(NodeExporter(pid, folders, reads_ours))
    return found


def sees_processes(proc: str = "/proc") -> bool:
    """Return whether all of the host's processes are visible.

    They are not in most containers, nor for users other than root if /proc is mounted with
    hidepid.
    """
    try:
        first = os.readlink(f"{proc}/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False
    return first and bool(processes.command_line(f"{proc}/1/cmdline"))


def _is_off(words: list[str]) -> bool:
    off = "--collector.disable-defaults" in words and "--collector.textfile" not in words
    return off or "--no-collector.textfile" in words


def _folders(words: list[str]) -> list[str]:
    """Return the values of the flag, which may be repeated."""
    folders = []
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == _FOLDER_FLAG:
            folders += [value] if equals else words[position + 1 : position + 2]
    return folders


def _reads(folder: str, patterns: list[str], process: str) -> bool | None:
    """Return whether a process reads `folder`, or None if that is unknown.

    The patterns are relative to the process's own root and working directory.
    """
    unknown = False
    for pattern in patterns:
        try:
            path = os.path.join(os.readlink(f"{process}/cwd"), pattern)
            if os.path.samefile(folder, f"{process}/root{path}"):
                return True
        except PermissionError:  # Only root may look; the path may be another directory there.
            unknown = True
        except OSError:  # The path does not exist in the process's root.
            if glob.has_magic(pattern) and fnmatch.fnmatchcase(folder, pattern):
                return True
    return None if unknown else False

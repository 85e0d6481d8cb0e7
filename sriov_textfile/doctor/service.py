"""Finds how this host or container runs the program: a unit of systemd, a cron job, a process.

The formats: systemd.unit(5), systemd.service(5) and systemd.exec(5) for units, crontab(5), proc(5).
What a unit runs is read from files, so systemd need not run.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from sriov_textfile.doctor import processes
from sriov_textfile.host.files import read_at

_PROGRAM = "sriov-textfile"

# In the order of their precedence, systemd.unit(5).
_UNIT_FOLDERS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_UNITS = ("timer", "socket", "service")
_CRON_FOLDER = "etc/cron.d"
_MAX_FILES = 1000

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SHELL = set("|&;<>()")


@dataclass
class Service:
    """A way in which the program is run, and the words after its name on the command line."""

    name: str  # sriov-textfile.timer, /etc/cron.d/sriov-textfile, process 1
    arguments: list[str]


def find(root: str = "/") -> list[Service]:
    """Return the services of the program: its units and cron jobs, or else running processes.

    A process counts only if it sees the same files as this one, as in a container: services of
    systemd have a view of their own. What cannot be read is left out.
    """
    root = root.rstrip("/")
    found = [*_units(root), *_cron_jobs(root)]
    return found or list(_processes(f"{root}/proc"))


def _units(root: str) -> Iterator[Service]:
    for name in sorted(_enabled(root), key=_rank):
        service = f"{name.rpartition('.')[0]}.service"
        if arguments := _started_by(root, service):
            yield Service(name, arguments)


def _enabled(root: str) -> set[str]:
    """Return the program's units that are enabled, and its services that run.

    systemd links enabled units into directories NAME.wants, and services that run into
    run/systemd/units.
    """
    found = set()
    for folder in _UNIT_FOLDERS[:2]:
        for wants in _listed(f"{root}/{folder}"):
            if wants.endswith(".wants"):
                found.update(_listed(f"{root}/{folder}/{wants}"))
    for name in _listed(f"{root}/run/systemd/units"):
        found.add(name.removeprefix("invocation:"))
    ours = {
        name for name in found if name.startswith(_PROGRAM) and name.rpartition(".")[2] in _UNITS
    }
    # What a timer or socket starts is not another service.
    activated = {
        f"{name.rpartition('.')[0]}.service" for name in ours if not name.endswith(".service")
    }
    return ours - activated


def _rank(name: str) -> tuple[int, str]:
    return _UNITS.index(name.rpartition(".")[2]), name


def _started_by(root: str, service: str) -> list[str]:
    """Return what follows the program's name in the command of a service; nothing if unknown."""
    command = ""
    environment: dict[str, str] = {}
    files: list[str] = []
    for key, value in _settings(root, service):
        if key == "ExecStart":
            command = value  # An empty one resets it, as in a drop-in.
        elif key == "Environment":
            environment.update(_assignments(_words(value))) if value else environment.clear()
        elif key == "EnvironmentFile":
            files = [*files, value.removeprefix("-")] if value else []
    for file in files:  # They override Environment=.
        environment.update(_environment_file(f"{root}{file}"))
    words: list[str] = []
    for word in _words(command.lstrip("@-:+!")):
        if word.startswith("$") and word[1:].isidentifier():
            words += _words(environment.get(word[1:], ""))
        else:
            words.append(_VARIABLE.sub(lambda found: environment.get(found[1], ""), word))
    return _after_program(words)


def _settings(root: str, service: str) -> Iterator[tuple[str, str]]:
    """Yield the settings of a service and of its drop-ins, in the order in which they apply."""
    unit = next(
        (path for folder in _UNIT_FOLDERS if os.path.exists(path := f"{root}/{folder}/{service}")),
        "",
    )
    drop_ins: dict[str, str] = {}  # by name: one in a directory of higher precedence wins
    for folder in reversed(_UNIT_FOLDERS):
        for name in _listed(f"{root}/{folder}/{service}.d"):
            if name.endswith(".conf"):
                drop_ins[name] = f"{root}/{folder}/{service}.d/{name}"
    for path in [unit, *[drop_ins[name] for name in sorted(drop_ins)]]:
        for line in _lines(path):
            key, equals, value = line.partition("=")
            if equals and not line.startswith(("#", ";")):
                yield key.strip(), value.strip()


def _environment_file(path: str) -> dict[str, str]:
    lines = [line for line in _lines(path) if not line.startswith(("#", ";"))]
    pairs = [line.partition("=") for line in lines]
    return {key.strip(): " ".join(_words(value)) for key, equals, value in pairs if equals}


def _assignments(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    return {key: value for key, _, value in pairs}


def _cron_jobs(root: str) -> Iterator[Service]:
    for name in _listed(f"{root}/{_CRON_FOLDER}"):
        if "." in name:  # cron ignores such files
            continue
        for line in _lines(f"{root}/{_CRON_FOLDER}/{name}"):
            # Five fields of time or one like @hourly, the user, and the command.
            fields = line.split(None, 2 if line.startswith("@") else 6)
            if not line.startswith("#") and len(fields) in (3, 7):
                words = _after_program(_shell_words(fields[-1]))
                if words:
                    yield Service(f"/{_CRON_FOLDER}/{name}", words)


def _shell_words(command: str) -> list[str]:
    """Return the words of the first simple command in a shell's command line."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= _SHELL:
                # The number before a redirection is that of a file descriptor.
                return words[:-1] if word[0] in "<>" and words[-1:] == ["2"] else words
            words.append(word)
    except ValueError:  # an open quote
        return []
    return words


def _processes(proc: str) -> Iterator[Service]:
    own = _view(f"{proc}/self")
    for pid, words in processes.running(proc):
        arguments = _after_program(words) if _runs_program(words) else []
        is_service = arguments and not {"demo", "doctor", "top"} & set(arguments)
        if is_service and own and _view(f"{proc}/{pid}") == own:
            yield Service(f"process {pid}", arguments)


def _runs_program(words: list[str]) -> bool:
    """Whether these start the program, or Python with it; not `kubectl logs -c sriov-textfile`."""
    start = words[0]
    if os.path.basename(start).startswith("python"):
        start = next((word for word in words[1:] if not word.startswith("-")), "")
    return start == "sriov_textfile" or os.path.basename(start).removesuffix(".pyz") == _PROGRAM


def _view(process: str) -> str:
    """Return the mount namespace of a process, or "" if it is unknown."""
    try:
        return os.readlink(f"{process}/ns/mnt")
    except OSError:
        return ""


def _after_program(words: list[str]) -> list[str]:
    """Return the words after the program's name, also of `python -m sriov_textfile`."""
    for position, word in enumerate(words):
        name = os.path.basename(word).removesuffix(".pyz")
        if name == _PROGRAM or (word == "sriov_textfile" and words[position - 1 :][:1] == ["-m"]):
            return words[position + 1 :]
    return []


def _words(text: str) -> list[str]:
    """Return the words of a text with quotes, which systemd reads nearly as a shell does."""
    try:
        return shlex.split(text)
    except ValueError:  # an open quote
        return []


def _lines(path: str) -> list[str]:
    """Return the lines of a file, stripped, with those that end in a backslash joined."""
    try:
        text = read_at(path) if path else ""
    except OSError:
        return []
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_MAX_FILES]
    except OSError:
        return []

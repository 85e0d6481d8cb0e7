"""What a file may contain, or be, instead of what the program expects."""

from __future__ import annotations

import functools
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from e2e.fuzz.machine import Machine

# None of these is a decimal number, not even without surrounding white space.
WORDS = {
    "empty": b"",
    "a word": b"not available\n",
    "negative": b"-1\n",
    "2^64": b"18446744073709551616\n",
    "5,000 digits": b"9" * 5000,
    "hexadecimal": b"0x10\n",
    "a fraction": b"1.5\n",
    "an exponent": b"1e3\n",
    "underscores": b"1_000\n",
    "signed": b"+1\n",
    "Arabic digits": "\u0661\u0662\n".encode(),
    "a superscript": "²\n".encode(),
    "not UTF-8": b"\xff\xfe\xff\n",
    "two numbers": b"1 2\n",
    "a colon": b"1:2\n",
    "NaN": b"NaN\n",
}
TEXTS = {
    **WORDS,
    "a blank line": b"\n",
    "binary": bytes(range(256)),
    "zero bytes": bytes(8),
    "64 KiB of digits": b"1" * 65536,
    "surrounding spaces": b" 1 \n",
    "two lines": b"1\n2\n",
    "a carriage return": b"1\r\n",
}
NUMBERS = {b"0\n": 0, b"007\n": 7, b"18446744073709551615": 2**64 - 1, b"1\n": 1}

ODD_NAMES = (
    "info", "max_tx_rate_mbps", "rx bytes", "rx\nbytes", 'rx"bytes', "rx{}", "é", "\udcff\udcfe",
    "rx-bytes", "\u0661", "a" * 255, "\udcff" * 255, "#", "..x", "rx_bytes ", "RX_BYTES", "_", "9",
    "\t", "\x7f",
)  # fmt: skip


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(target: str, machine: Machine, path: Path) -> None:
    path.symlink_to(target)


def _folder(machine: Machine, path: Path) -> None:
    path.mkdir()
    if machine.random.random() < 0.5:
        (path / machine.random.choice(ODD_NAMES)).write_text("1\n")


def _elsewhere(machine: Machine, path: Path) -> None:
    elsewhere = machine.folder / "elsewhere"
    elsewhere.write_text("4711\n")
    path.symlink_to(elsewhere)


def _socket(machine: Machine, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path has at most 107 characters.
        place = machine.folder / "s"
        server.bind(str(place))
        place.rename(path)


def _huge(machine: Machine, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _unreadable(machine: Machine, path: Path) -> None:
    path.write_text("1\n")
    machine.unreadable.append(path)


OBJECTS: dict[str, Callable[[Machine, Path], None]] = {
    "missing": lambda machine, path: None,
    "a directory": _folder,
    "a dangling link": functools.partial(_link, "nowhere"),
    "a link to a file": _elsewhere,
    "a FIFO": lambda machine, path: os.mkfifo(path),
    "a socket": _socket,
    "1 GiB": _huge,
    "unreadable": _unreadable,
}


def replace(machine: Machine, path: Path, texts: dict[str, bytes] = TEXTS) -> str:
    """Put something else in place of a file, directory or link; return what, or "" if it cannot."""
    random = machine.random
    if not path.parent.is_dir():
        return ""  # Other damage has removed it.
    if random.random() < 0.1 and path.is_dir() and not path.is_symlink():
        machine.unreadable.append(path)
        return "unreadable"
    _remove(path)
    if random.random() < 0.5:
        kind, text = random.choice(list(texts.items()))
        path.write_bytes(text)
        return kind
    if random.random() < 0.1:
        path.symlink_to(path.name)
        return "a looping link"
    kind, put = random.choice(list(OBJECTS.items()))
    put(machine, path)
    return kind


def is_intact(path: Path) -> bool:
    """Whether a file can be damaged further: it is neither replaced by something else nor huge."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20


def named(what: str, kind: str) -> str:
    """Return the name of a damage, or "" if there was none."""
    return f"{what}: {kind}" if kind else ""


def add_odd_names(machine: Machine, folder: Path, what: str) -> str:
    """Add entries with odd names to a directory."""
    if not folder.is_dir():
        return ""
    for name in machine.random.sample(ODD_NAMES, 3):
        if not os.path.lexists(folder / name):
            replace(machine, folder / name)
    return f"{what}: odd names"

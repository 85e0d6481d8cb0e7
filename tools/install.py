"""Installs the program below a prefix, or removes it (`make install`, `make uninstall`)."""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools import completions, manpage, zipapp

PROJECT = Path(__file__).parent.parent
# A configuration file, and so not below the prefix: it is installed only where that is asked.
DEFAULT_FILE = "etc/default/sriov-textfile"
DOCUMENTS = "share/doc/sriov-textfile"


def files(prefix: str, zsh: str = "share/zsh/site-functions") -> dict[str, bytes]:
    """Return the content of each file by its path below the root; those in bin/ are executable.

    The program itself is not among them. `zsh` is where zsh looks for completions.
    """
    systemd = PROJECT / "systemd"
    found = {
        f"lib/systemd/system/{unit.name}": unit.read_bytes()
        for pattern in ("*.service", "*.socket", "*.timer")
        for unit in sorted(systemd.glob(pattern))
    }
    found["lib/sysusers.d/sriov-textfile.conf"] = (systemd / "sysusers.conf").read_bytes()
    page = gzip.compress(manpage.page(epoch()).encode(), mtime=0)
    found["share/man/man1/sriov-textfile.1.gz"] = page
    bash = completions.bash().encode()
    found["share/bash-completion/completions/sriov-textfile"] = bash
    found[f"{zsh}/_sriov-textfile"] = completions.zsh().encode()
    fish = completions.fish().encode()
    found["share/fish/vendor_completions.d/sriov-textfile.fish"] = fish
    cron = (PROJECT / "cron/sriov-textfile").read_bytes()
    found[f"{DOCUMENTS}/examples/cron"] = cron
    return {f"{prefix.strip('/')}/{path}": data for path, data in found.items()}


def epoch() -> int:
    """Return the time of a build: SOURCE_DATE_EPOCH, or that of the last commit.

    Outside of a git checkout, it is that of the last change of the changelog.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(PROJECT), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return int((PROJECT / "CHANGELOG.md").stat().st_mtime)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["install", "uninstall", "default"])
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--destdir", default="", help="a root to install into")
    arguments = parser.parse_args()
    root = Path(arguments.destdir or "/")
    if arguments.action == "default":
        if not (root / DEFAULT_FILE).exists():
            write(root / DEFAULT_FILE, (PROJECT / "systemd/sriov-textfile.default").read_bytes())
        return
    below = root / arguments.prefix.strip("/")
    program = below / "bin/sriov-textfile"
    found = files(arguments.prefix)
    if arguments.action == "uninstall":
        for path in [program, *[root / path for path in found]]:
            path.unlink(missing_ok=True)
        shutil.rmtree(below / DOCUMENTS, ignore_errors=True)
        return
    for path, data in found.items():
        write(root / path, data)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "sriov-textfile"
        zipapp.build(built, pythons=zipapp.pythons())
        write(program, built.read_bytes(), 0o755)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file, with the directories above it. A running program keeps the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(mode)
    shutil.move(new, path)


if __name__ == "__main__":
    main()

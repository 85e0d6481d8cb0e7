"""Builds dist/sriov-textfile.pyz: the program as one file. Builds are reproducible."""

from __future__ import annotations

import zipfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
TARGET = PROJECT / "dist/sriov-textfile.pyz"
PACKAGE = PROJECT / "sriov_textfile"

# Isolated: no module is imported from the working directory, PYTHONPATH or a user's packages,
# because root may run the file anywhere. Without -S, env would take "python3 -I" for a name.
_INTERPRETER = b"#!/usr/bin/env -S python3 -I\n"
_MAIN = b"import sys\nfrom sriov_textfile.__main__ import main\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest timestamp a zip file can have


def build(target: Path = TARGET) -> None:
    """Write the archive, with the layout of Python's zipapp module."""
    sources = {
        str(path.relative_to(PROJECT)): path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))
    }
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as file:
        file.write(_INTERPRETER)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {"__main__.py": _MAIN, **sources}.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                archive.writestr(info, data)
    target.chmod(0o755)


if __name__ == "__main__":
    build()
    print(f"built {TARGET.relative_to(PROJECT)}")

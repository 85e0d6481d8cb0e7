"""Builds the .deb and the .rpm around the one-file program, with nfpm."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from email.parser import BytesHeaderParser
from email.utils import formatdate
from pathlib import Path, PurePosixPath

from sriov_textfile import __version__
from tools import install, zipapp
from tools.fetch import run

PROJECT = Path(__file__).parent.parent
# Where each kind of distribution has its zsh look for completions.
ZSH = {"deb": "share/zsh/vendor-completions", "rpm": "share/zsh/site-functions"}
MAINTAINER = "The sriov-textfile maintainers <maintainers@sriov-textfile.example>"
HOMEPAGE = "https://sriov-textfile.example"
SUMMARY = "Prometheus metrics of SR-IOV virtual functions"
DESCRIPTION = """\
The packets of SR-IOV virtual functions bypass the host's kernel, so
node_exporter's network metrics miss them. sriov-textfile reads the counters of
each virtual function from the driver of the physical function, and writes them
to a file for node_exporter's textfile collector, or serves HTTP. On a
Kubernetes node it also exports the pods and CPUs that use them."""
_RELATIONS = {
    "deb": {
        "depends": ["python3 (>= 3.10)", "acl", "systemd | systemd-standalone-sysusers"],
        "suggests": ["prometheus-node-exporter", "python3-grpcio"],
    },
    # On RHEL 9, python3 is 3.9; the program finds the newer one beside it.
    "rpm": {
        "depends": ["(python3 >= 3.10 or python3.12 or python3.11)", "acl", "systemd"],
    },
}
_APACHE = "/usr/share/common-licenses/Apache-2.0"


def build(kind: str, folder: Path, pythons: Sequence[str] = (), version: str = __version__) -> Path:
    """Build the package of a kind, deb or rpm, into a folder, and return its path.

    The program is compiled for each of `pythons`. Raises SystemExit.
    """
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for path, data in install.files("/usr", ZSH[kind]).items():
            install.write(tree / path, data)
        program = tree / "usr/bin/sriov-textfile"
        program.parent.mkdir(parents=True)
        zipapp.build(program, "/usr/bin/python3 -I", pythons)
        documents = tree / "usr" / install.DOCUMENTS
        install.write(documents / "copyright", _copyright(program).encode())
        if kind == "deb":
            changelog = gzip.compress(_changelog().encode(), mtime=0)
            install.write(documents / "changelog.gz", changelog)
        config = tree / "nfpm.json"
        config.write_text(json.dumps(_config(kind, version, tree)))
        nfpm = Path(sys.executable).with_name("nfpm")
        run([nfpm, "package", "--config", config, "--packager", kind, "--target", tree])
        (built,) = tree.glob(f"*.{kind}")
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(built, folder))


def _config(kind: str, version: str, tree: Path) -> dict[str, object]:
    """Return nfpm's configuration, see https://nfpm.goreleaser.com/docs/configuration/."""
    contents = [
        {"src": str(path), "dst": f"/{path.relative_to(tree)}"}
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    ]
    default = str(PROJECT / "systemd/sriov-textfile.default")
    # Kept if the administrator has changed it.
    contents.append({"src": default, "dst": f"/{install.DEFAULT_FILE}", "type": "config|noreplace"})
    if kind == "rpm":  # which removes only directories that the package owns
        own = f"/usr/{install.DOCUMENTS}"
        contents += [{"dst": path, "type": "dir"} for path in (own, f"{own}/examples")]
    scripts = {"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"}
    return {
        "name": "sriov-textfile",
        "arch": "all",
        "version": version,
        "section": "net",
        "priority": "optional",
        "maintainer": MAINTAINER,
        "description": f"{SUMMARY}\n{DESCRIPTION}" if kind == "deb" else DESCRIPTION,
        "homepage": HOMEPAGE,
        "license": "Apache-2.0",
        "mtime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(install.epoch())),
        "contents": contents,
        "scripts": {event: str(PROJECT / "packaging" / name) for event, name in scripts.items()},
        **_RELATIONS[kind],
        "rpm": {"summary": SUMMARY, "buildhost": "localhost"},
    }


def _changelog() -> str:
    """Return a changelog in Debian's format, for this version only."""
    date = formatdate(install.epoch())
    return (
        f"sriov-textfile ({__version__}) unstable; urgency=medium\n\n"
        f"  * Version {__version__}: see CHANGELOG.md of the project.\n\n"
        f" -- {MAINTAINER}  {date}\n"
    )


def _copyright(program: Path) -> str:
    """Return the licenses of the program and of the packages inside it."""
    parts = [f"sriov-textfile {__version__}, {HOMEPAGE}\nLicense: Apache-2.0, see {_APACHE}\n"]
    with zipfile.ZipFile(program) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.name != "METADATA":
                continue
            about = BytesHeaderParser().parsebytes(archive.read(name))
            parts.append(f"The program contains {about['Name']} {about['Version']}.\n")
            for other in sorted(archive.namelist()):
                if other.startswith(f"{path.parent}/") and other != name:
                    text = archive.read(other).decode()
                    if "Apache License" in text:
                        text = f"License: Apache-2.0, see {_APACHE}\n"
                    if "GNU GENERAL PUBLIC LICENSE" not in text:  # pyroute2: a choice of two
                        parts.append(text)
    return "\n".join(parts)


if __name__ == "__main__":
    found = zipapp.pythons()
    for each in _RELATIONS:
        path = build(each, zipapp.TARGET.parent, found)
        print(f"built {path.relative_to(PROJECT)}, compiled for {', '.join(found)}")

"""Builds the container images of the Kubernetes node with buildah."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from lab.debian import SUITE, bootstrap, chroot
from tools.fetch import CACHE, key, new_folder, run, say

PROJECT = Path(__file__).parent.parent
DEPLOYMENT = PROJECT / "deployment"

# The image that deployment/Dockerfile starts from is made of Debian's packages, and trimmed.
PYTHON_PACKAGES = "python3-pip,python3-venv,python-is-python3"
UNNEEDED = (
    "var/lib/apt/lists",
    "var/cache/apt",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)

# Builds use no network: pip takes its packages from the machine's wheels.
PIP = "[global]\nno-index = true\nfind-links = /opt/wheels\n"

# Storage that needs no privileges. buildah raises the limits of what it runs, and may not do that
# everywhere.
SCRIPT = """\
cd /images
buildah() {{
  command buildah --root /images/storage --runroot /images/run --storage-driver vfs "$@"
}}
build() {{
  buildah build -q --isolation=chroot --network=host --pull=never \
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
    -v /opt/wheels:/opt/wheels:ro -v /images/pip.conf:/etc/pip.conf:ro "$@"
}}
container=$(buildah from -q --isolation=chroot --network=host scratch)
buildah add -q $container /images/python.tar /
buildah commit -q --rm $container {base}
build -f /checkout/deployment/Dockerfile -t {program} /checkout
build -f /checkout/lab/node/images/node-exporter.Dockerfile -t {node_exporter} /
build -f /checkout/lab/node/images/app.Dockerfile -t localhost/app:1 /
for image in {program} {node_exporter} localhost/app:1; do
  name=${{image##*/}}
  buildah push -q --disable-compression $image docker-archive:/images/built/${{name%:*}}.tar:$image
done
"""


def build(tree: Path, folder: Path) -> None:
    """Build the images in the machine's tree, and write docker's archive of each into `folder`.

    They have the names that deployment/ gives them. Raises SystemExit if a build fails.
    """
    base = _base()
    say("building the container images")
    dockerfile = (DEPLOYMENT / "Dockerfile").read_text()
    manifest = (DEPLOYMENT / "textfile/daemonset.yaml").read_text()
    script = SCRIPT.format(
        base=_first(r"^FROM (\S+)", dockerfile),
        program=_first(r"^#   docker build .* -t (\S+) \.$", dockerfile),
        node_exporter=_first(r"image: (\S+/node-exporter:\S+)$", manifest),
    )
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="lab-images.") as name:
        images = Path(name)
        (images / "built").mkdir()
        (images / "pip.conf").write_text(PIP)
        (images / "python.tar").hardlink_to(base / "python.tar")
        chroot(tree, script, mounts={"/images": images, "/checkout": PROJECT})
        for archive in (images / "built").iterdir():
            shutil.move(archive, folder)


def _base() -> Path:
    """Return the folder with python.tar, the files of the image with Python."""
    base = CACHE / f"lab-python-{key(SUITE, PYTHON_PACKAGES, *UNNEEDED)}"
    if not base.is_dir():
        say("building the image with Python (about a minute)")
        with new_folder(base) as new:
            tree = new / "tree"
            tree.mkdir()
            bootstrap(tree, f"--include={PYTHON_PACKAGES}")
            for path in UNNEEDED:
                shutil.rmtree(tree / path)
            run(["tar", "-C", tree, "-cf", new / "python.tar", "."])
            shutil.rmtree(tree)
    return base


def _first(pattern: str, text: str) -> str:
    """Return the group of a pattern's first match. Raises SystemExit if there is none."""
    if match := re.search(pattern, text, re.MULTILINE):
        return match[1]
    raise SystemExit(f"no line in deployment/ matches {pattern}")

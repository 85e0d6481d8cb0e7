"""Builds container images with buildah: those of the Kubernetes node, and that of a release."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from lab import machine
from lab.debian import SUITE, bootstrap, chroot
from tools import install, requirements
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

# All files of an image get the same time, so Debian's compiled files would not match their sources.
COMPILE = "python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3*"

# Builds use no network: pip takes its packages from a folder of wheels.
PIP = "[global]\nno-index = true\nfind-links = /opt/wheels\n"
BUILD_REQUIREMENTS = ("hatchling>=1.27",)

# Storage that needs no privileges. buildah raises the limits of what it runs, and may not do that
# everywhere.
FUNCTIONS = """\
cd /images
buildah() {{
  command buildah --root /images/storage --runroot /images/run --storage-driver vfs "$@"
}}
build() {{
  buildah build -q --isolation=chroot --network=host --pull=never --timestamp={epoch} \
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
    -v /opt/wheels:/opt/wheels:ro -v /images/pip.conf:/etc/pip.conf:ro "$@"
}}
container=$(buildah from -q --isolation=chroot --network=host scratch)
buildah add -q $container /images/python.tar /
buildah commit -q --rm --timestamp={epoch} $container {base}
build -f /checkout/deployment/Dockerfile -t {program} /checkout
"""
NODE = """\
build -f /checkout/lab/node/images/node-exporter.Dockerfile -t {node_exporter} /
build -f /checkout/lab/node/images/app.Dockerfile -t localhost/app:1 /
for image in {program} {node_exporter} localhost/app:1; do
  name=${{image##*/}}
  buildah push -q --disable-compression $image docker-archive:/images/built/${{name%:*}}.tar:$image
done
"""
LAYOUT = "buildah push -q {program} oci:/images/built/image:{program}\n"


def build(tree: Path, folder: Path) -> None:
    """Build the node's images in the machine's tree, and write docker's archive of each.

    They have the names that deployment/ gives them. Raises SystemExit if a build fails.
    """
    say("building the container images")
    _run(tree, tree / "opt/wheels", FUNCTIONS + NODE, folder)


def from_packages(folder: Path) -> None:
    """Write the OCI layout of the program's image, `image`, with a base of Debian's packages.

    Raises SystemExit if the build fails.
    """
    tree = machine.tree()
    wanted = [*BUILD_REQUIREMENTS, *requirements.of(), *requirements.of("all")]
    wheels = CACHE / f"image-wheels-{key(*wanted)}"
    if not wheels.is_dir():
        with new_folder(wheels) as new:
            machine.download(wanted, new)
    say("building the image, with a base of Debian's packages")
    _run(tree, wheels, FUNCTIONS + LAYOUT, folder)


def from_registry(folder: Path, base: str) -> None:
    """Write the OCI layout of the program's image, `image`, with this host's buildah.

    Its base is that of the Dockerfile, or `base` if that is not "". Raises SystemExit if the build
    fails.
    """
    say("building the image")
    name = _names()["program"]
    command = ["buildah", "build", "--timestamp", str(install.epoch()), "-t", name]
    command += [f"--build-arg=PYTHON={base}"] if base else []
    run([*command, "-f", DEPLOYMENT / "Dockerfile", PROJECT], tries=2)
    run(["buildah", "push", name, f"oci:{folder}/image:{name}"])


def _run(tree: Path, wheels: Path, script: str, folder: Path) -> None:
    """Run a script, with the names of the images, in a tree; move what it has built to `folder`."""
    base = _base()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="lab-images.") as name:
        images = Path(name)
        (images / "built").mkdir()
        (images / "pip.conf").write_text(PIP)
        (images / "python.tar").hardlink_to(base / "python.tar")
        mounts = {"/images": images, "/checkout": PROJECT, "/opt/wheels": wheels}
        chroot(tree, script.format(**_names(), epoch=install.epoch()), mounts=mounts)
        for archive in (images / "built").iterdir():
            shutil.move(archive, folder)


def _names() -> dict[str, str]:
    """Return the names of the images in deployment/: of the base, the program, node_exporter."""
    dockerfile = (DEPLOYMENT / "Dockerfile").read_text()
    manifest = (DEPLOYMENT / "textfile/daemonset.yaml").read_text()
    return {
        "base": _first(r"^ARG PYTHON=(\S+)", dockerfile),
        "program": _first(r"^#   docker build .* -t (\S+) \.$", dockerfile),
        "node_exporter": _first(r"image: (\S+/node-exporter:\S+)$", manifest),
    }


def _base() -> Path:
    """Return the folder with python.tar, the files of the image with Python."""
    base = CACHE / f"lab-python-{key(SUITE, PYTHON_PACKAGES, COMPILE, *UNNEEDED)}"
    if not base.is_dir():
        say("building the image with Python (about a minute)")
        with new_folder(base) as new:
            tree = new / "tree"
            tree.mkdir()
            bootstrap(tree, f"--include={PYTHON_PACKAGES}")
            chroot(tree, COMPILE)
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

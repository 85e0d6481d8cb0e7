"""The .deb and the .rpm: installed, run, upgraded and removed in Debian trees, and checked."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from lab.debian import bootstrap, chroot, chrooted, environment
from sriov_textfile import __version__, cli, log
from tools import linux_packages
from tools.fetch import CACHE, key, new_folder, say

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a chroot needs root")

# What the package depends on and suggests, and on the newer Debian also the programs that check it.
NEEDED = ["acl", "python3", "python3-grpcio", "systemd"]
PACKAGES = {
    "bookworm": NEEDED,
    "trixie": [*NEEDED, "bash", "fish", "groff", "lintian", "man-db", "rpm", "zsh"],
}
PROJECT = Path(__file__).parent.parent
FOLDER = "/var/lib/prometheus/node-exporter"
FILE = f"{FOLDER}/sriov.prom"
DEFAULTS = "/etc/default/sriov-textfile"
# Written by dpkg, man-db, userdel and Python, whatever package is installed and removed.
STATE = re.compile(
    r"/(?:var/lib/(?:dpkg|systemd|rpm)|var/log|var/cache|run|tmp|root|packages)(?:/|$)"
    r"|/etc/(?:passwd|group|shadow|gshadow|subuid|subgid|\.pwd\.lock)-?$"
    r"|.*/__pycache__"
)


class Debian:
    """A Debian tree. Its /packages has the packages under test."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def run(self, command: str, code: int = 0) -> str:
        """Run a shell command in the tree and return its output; check the exit code."""
        done = subprocess.run(
            chrooted(self.tree, command),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def path(self, path: str) -> Path:
        return self.tree / path.lstrip("/")

    def files(self) -> set[str]:
        found = self.run("find / -xdev").splitlines()
        return {path for path in found if not STATE.match(path)}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages, and with older ones."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in ("deb", "rpm"):
        linux_packages.build(kind, folder)
        linux_packages.build(kind, folder, version="0.0.1")
    return folder


def new_tree(suite: str, packages: Path, folder: Path) -> Debian:
    """Return a copy of a Debian tree, which is built unless it is in the cache."""
    names = ",".join(PACKAGES[suite])
    cached = CACHE / f"packages-{suite}-{key(names)}"
    if not cached.is_dir():
        say(f"building a Debian {suite} root file system (about a minute)")
        with new_folder(cached) as new:
            bootstrap(new, suite=suite)
            shutil.copy("/etc/resolv.conf", new / "etc/resolv.conf")
            install = "apt-get -qy --no-install-recommends install"
            chroot(new, f"apt-get -q update && {install} {names.replace(',', ' ')}", tries=3)
            chroot(new, "apt-get clean")
    tree = folder / suite
    subprocess.run(["cp", "-a", cached, tree], check=True)
    shutil.copytree(packages, tree / "packages")
    return Debian(tree)


@pytest.fixture(scope="module", params=list(PACKAGES))
def clean(
    request: pytest.FixtureRequest, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Debian]:
    """Return a Debian without the package."""
    folder = tmp_path_factory.mktemp("trees")
    yield new_tree(request.param, packages, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def checker(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """Return a Debian with the package, and with the programs that check it."""
    folder = tmp_path_factory.mktemp("trees")
    debian = new_tree("trixie", packages, folder)
    debian.run(f"dpkg -i {deb()}")
    yield debian
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_two_builds_have_the_same_bytes(packages: Path, tmp_path: Path, kind: str) -> None:
    again = linux_packages.build(kind, tmp_path)
    assert again.read_bytes() == (packages / again.name).read_bytes()


def deb(version: str = __version__) -> str:
    return f"/packages/sriov-textfile_{version}_all.deb"


def rpm(version: str = __version__) -> str:
    return f"/packages/sriov-textfile-{version}-1.noarch.rpm"


def test_a_debian_host_from_installation_to_purge(clean: Debian) -> None:
    before = clean.files()

    # It enables nothing, but prints what to enable.
    output = clean.run(f"dpkg -i {deb('0.0.1')}")
    assert "systemctl enable --now sriov-textfile.timer" in output
    assert clean.run("systemctl is-enabled sriov-textfile.timer", code=1) == "disabled\n"
    assert clean.run("sriov-textfile version").startswith(f"sriov-textfile {__version__} (Python 3")
    acl = clean.run(f"getfacl -p {FOLDER}")
    assert "# owner: root" in acl
    assert "group:sriov-textfile:rwx" in acl

    # The service's user writes the file, which everyone may read.
    clean.run(
        f"setpriv --reuid=sriov-textfile --regid=sriov-textfile --init-groups"
        f" sriov-textfile --textfile.path={FILE} 2>/dev/null"
    )
    assert clean.run(f"stat -c '%U %A' {FILE}") == "sriov-textfile -rw-r--r--\n"

    # An upgrade keeps the configuration, what is enabled, and others' access to the directory.
    clean.path(DEFAULTS).write_text('SRIOV_TEXTFILE_FLAGS="--collector.vfinfo"\n')
    clean.run("systemctl enable sriov-textfile.timer")
    clean.run(f"setfacl -m user:games:rwx {FOLDER}")
    output = clean.run(f"dpkg -i {deb()}")
    assert "enable" not in output
    assert clean.path(DEFAULTS).read_text() == 'SRIOV_TEXTFILE_FLAGS="--collector.vfinfo"\n'
    assert clean.run("systemctl is-enabled sriov-textfile.timer") == "enabled\n"
    assert Path(f"{clean.tree}{FILE}").exists()

    # After the removal, node_exporter must not find the old metrics.
    clean.run("dpkg -r sriov-textfile")
    assert not clean.path("/usr/bin/sriov-textfile").exists()
    assert list(clean.path(FOLDER).iterdir()) == []
    assert clean.path(DEFAULTS).exists()
    assert not list(clean.path("/etc/systemd/system").glob("*/sriov-textfile*"))
    acl = clean.run(f"getfacl -cp {FOLDER}")
    assert "user:games:rwx" in acl
    assert "sriov" not in acl

    clean.run(f"setfacl -b {FOLDER}")
    clean.run("dpkg -P sriov-textfile")
    assert clean.files() == before
    assert clean.run("id sriov-textfile 2>&1", code=1)


def test_remove_leaves_no_access_list_and_no_file_in_another_directory(clean: Debian) -> None:
    clean.run(f"dpkg -i {deb()}")
    clean.path(DEFAULTS).write_text('SRIOV_TEXTFILE_PATH="/srv/other.prom"\n')
    clean.path("/srv/other.prom").touch()
    clean.run("dpkg -r sriov-textfile")
    assert clean.run(f"getfacl -csp {FOLDER}").strip() == ""
    assert not clean.path("/srv/other.prom").exists()
    clean.run("dpkg -P sriov-textfile")


def test_the_owner_and_mode_of_an_existing_directory_stay(clean: Debian) -> None:
    clean.run(f"install -d -o games {Path(FOLDER).parent}")  # on Debian, it is prometheus's
    clean.run(f"install -d -m 2770 -o games -g mail {FOLDER}")
    clean.run(f"dpkg -i {deb()}")
    acl = clean.run(f"getfacl -p {FOLDER}")
    assert "# owner: games\n# group: mail\n# flags: -s-\n" in acl
    assert "group:sriov-textfile:rwx" in acl
    assert "other::---" in acl
    clean.run(f"dpkg -P sriov-textfile; rm -r {Path(FOLDER).parent}")


@pytest.mark.parametrize("clean", ["trixie"], indirect=True)
def test_a_directory_without_acls_is_no_obstacle(clean: Debian) -> None:
    """ramfs has none. HTTP needs no directory, and the owner may give access in other ways."""
    mount = f"mkdir -p {FOLDER} && mount -t ramfs none {FOLDER}"
    output = clean.run(f"{mount} && dpkg -i {deb()}")
    assert f"let the group sriov-textfile write to {FOLDER}, which has no ACLs" in output
    assert clean.run("dpkg -s sriov-textfile").count("Status: install ok installed\n") == 1
    clean.run(f"{mount} && touch {FILE} && dpkg -r sriov-textfile && [ ! -e {FILE} ]")
    clean.run(f"dpkg -P sriov-textfile; rm -rf {Path(FOLDER).parent}")


def test_pods_need_only_debians_grpcio(clean: Debian) -> None:
    """The demo's kubelet and the program use grpcio, with the protobuf that it comes with."""
    clean.run(f"dpkg -i {deb()}")
    page = clean.run("sriov-textfile demo --collector.kubepoddevice --collector.kubepodcpu 2>&1")
    assert page.count("sriov_kubepoddevice{") == 18
    clean.run("dpkg -P sriov-textfile")


@pytest.mark.parametrize("command", ["collect", "doctor"])
def test_without_grpcio_the_program_prints_how_to_install_it(checker: Debian, command: str) -> None:
    hide = "mount -t tmpfs none /usr/lib/python3/dist-packages/grpc"
    output = checker.run(f"{hide}; sriov-textfile {command} --collector.kubepoddevice || true")
    assert "run apt install python3-grpcio" in " ".join(output.split())
    assert "Traceback" not in output


def test_lintian_finds_no_errors(checker: Debian) -> None:
    checker.run(f"lintian --allow-root --fail-on error {deb()}")


def test_the_man_page_renders_without_warnings(checker: Debian) -> None:
    page = checker.run("LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings sriov-textfile")
    assert page.startswith("SRIOV-TEXTFILE(1)")
    assert "warning" not in page
    for part in ("EXIT STATUS", "EXAMPLES", "--collector.vfstatspriority=VALUE", *cli.COMMANDS):
        assert part in page
    assert checker.run("zcat /usr/share/man/man1/sriov-textfile.1.gz | groff -man -ww -z") == ""


@pytest.mark.parametrize("clean", ["trixie"], indirect=True)
def test_make_install_and_uninstall(clean: Debian) -> None:
    """Below /usr/local, where systemd finds units, users and directories, too."""
    before = clean.files()
    make = [sys.executable, "-m", "tools.install", f"--destdir={clean.tree}"]
    subprocess.run([*make, "install"], cwd=PROJECT, check=True)
    assert not clean.path(DEFAULTS).exists()
    clean.run("systemd-sysusers sriov-textfile.conf && id sriov-textfile")
    assert clean.run("systemctl is-enabled sriov-textfile.timer", code=1) == "disabled\n"
    clean.run("systemd-analyze verify sriov-textfile.service sriov-textfile-kubernetes.service")
    assert clean.run("/usr/local/bin/sriov-textfile version").startswith("sriov-textfile ")
    subprocess.run([*make, "default"], cwd=PROJECT, check=True)
    clean.path(DEFAULTS).write_text("SRIOV_TEXTFILE_FLAGS=--collector.vfinfo\n")
    subprocess.run([*make, "default"], cwd=PROJECT, check=True)
    assert clean.path(DEFAULTS).read_text() == "SRIOV_TEXTFILE_FLAGS=--collector.vfinfo\n"
    subprocess.run([*make, "uninstall"], cwd=PROJECT, check=True)
    left = {path for path in clean.files() - before if not clean.path(path).is_dir()}
    assert left == {DEFAULTS}
    assert not [path for path in clean.files() - before if path.endswith("doc/sriov-textfile")]
    clean.path(DEFAULTS).unlink()
    clean.run("userdel sriov-textfile")


# --- completions ------------------------------------------------------------------------------

LEVELS = set(log.LEVELS)
COMPLETIONS = {
    "--log.level=": LEVELS,
    "--log.level=de": {"--log.level=debug"},
    "--log.level ": LEVELS,
    "serve --web.rate-": {"--web.rate-burst", "--web.rate-limit"},
    "doctor --js": {"--json"},
    "top --by=": {"pod", "vf", "pf"},
    "--collector.vfinfo=": {"true", "false"},
    "--no-collector.vfst": {"--no-collector.vfstats"},
    "--textfile.path=/etc/defaul": {"--textfile.path=/etc/default/"},
    "": set(cli.COMMANDS),
    "demo ": set(cli.COMMANDS),
}
SHELLS = {
    "bash": ("bash --norc", "source /usr/share/bash-completion/completions/sriov-textfile"),
    "zsh": ("zsh -f", "autoload -Uz compinit; compinit -D; zstyle ':completion:*' menu no"),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("typed", COMPLETIONS)
def test_tab_completes_commands_flags_and_values(checker: Debian, shell: str, typed: str) -> None:
    program, setup = SHELLS[shell]
    command = chrooted(checker.tree, f"TERM=dumb exec {program} -i")
    with pexpect.spawn(
        command[0], command[1:], env=environment(), encoding="utf-8", dimensions=(50, 200)
    ) as terminal:
        terminal.expect("# ")  # The shell drops what is typed before it has set up the terminal.
        terminal.sendline(f"PS1='ready> '; PROMPT_EOL_MARK=; {setup}; echo set-up-$((40 + 2))")
        terminal.expect("set-up-42")
        terminal.expect("ready> ")
        terminal.send(f"sriov-textfile {typed}\t\t")
        terminal.sendline("\x15echo $((6 * 7))")  # ^U clears the line
        terminal.expect(r"\b42\b")
        shown = terminal.before or ""
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
    assert [word for word in COMPLETIONS[typed] if word not in shown] == [], shown


# fish has no flags whose value is optional.
@pytest.mark.parametrize("typed", [typed for typed in COMPLETIONS if "vfinfo=" not in typed])
def test_fish_completes_commands_flags_and_values(checker: Debian, typed: str) -> None:
    line = shlex.quote(f"sriov-textfile {typed}")
    output = checker.run(f"fish -c {shlex.quote(f'complete -C {line}')}")
    found = {word.split("\t")[0] for word in output.splitlines()}
    flag = typed.rpartition(" ")[2] if typed.endswith("=") else ""
    assert {f"{flag}{word}" for word in COMPLETIONS[typed]} <= found


# --- the .rpm ---------------------------------------------------------------------------------


def test_the_rpm_has_the_files_of_the_deb(checker: Debian) -> None:
    def listed(command: str) -> set[str]:
        names = {
            path.replace("vendor-completions", "site-functions")
            for path in checker.run(command).splitlines()
        }
        return {name for name in names if not name.endswith("changelog.gz")}

    files = "dpkg -L sriov-textfile | while read -r f; do [ -d $f ] || echo $f; done"
    assert listed(f"rpm -qplv {rpm()} | sed -n '/^-/s/.* //p'") == listed(files)
    assert checker.run(f"rpm -qpc {rpm()}") == f"{DEFAULTS}\n"
    assert "digests OK" in checker.run(f"rpm -K --nosignature {rpm()}")
    requires = checker.run(f"rpm -qpR {rpm()}").splitlines()
    assert "(python3 >= 3.10 or python3.12 or python3.11)" in requires


@pytest.mark.parametrize("clean", ["trixie"], indirect=True)
def test_the_rpm_installs_upgrades_and_removes(clean: Debian) -> None:
    before = clean.files()
    output = clean.run(f"rpm -i --nodeps {rpm('0.0.1')}")
    assert "systemctl enable --now sriov-textfile.timer" in output
    assert clean.run("sriov-textfile demo 2>&1").count("sriov_vf_rx_bytes{") == 24
    clean.path(DEFAULTS).write_text("SRIOV_TEXTFILE_FLAGS=--collector.vfinfo\n")
    clean.run(f"rpm -U --nodeps {rpm()}")
    assert clean.path(DEFAULTS).read_text() == "SRIOV_TEXTFILE_FLAGS=--collector.vfinfo\n"
    clean.run("sriov-textfile --textfile.path=" + FILE)
    clean.run("rpm -e sriov-textfile")
    # rpm removes only directories of the package's own, and leaves the user and its directory.
    shared = {"/usr/share/zsh/site-functions", FOLDER, str(Path(FOLDER).parent)}
    assert clean.files() - before - shared == {f"{DEFAULTS}.rpmsave"}
    assert list(clean.path(FOLDER).iterdir()) == []

"""The shipped units and cron file, run by the real systemd and cron."""

from __future__ import annotations

import json
import pwd
import re
import stat
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import parse, sh
from conftest import Pf

from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod

pytestmark = pytest.mark.one_kernel

FOLDER = Path("/var/lib/prometheus/node-exporter")  # read by Debian's node_exporter
FILE = FOLDER / "sriov.prom"
DEFAULTS = Path("/etc/default/sriov-textfile")
CHECKOUT = Path("/root/checkout")
VENDOR = Path("/usr/lib/systemd/system")
(PACKAGE,) = [path.name for path in Path("/lab/packages").glob("sriov-textfile_[0-8]*.deb")]
UNITS = ("sriov-textfile", "sriov-textfile-kubernetes", "sriov-textfile-http")


def documented(heading: str) -> str:
    """Return the shell commands below a heading of docs/installation.md."""
    text = (CHECKOUT / "docs/installation.md").read_text()
    section = re.split(rf"^##+ {re.escape(heading)}.*$", text, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^##+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


def follow(heading: str) -> str:
    """Run the documented commands in a checkout, beside the packages, and return their output.

    The machine has no network, so pip installs from a folder of wheels.
    """
    pip = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels"
    return sh(f"cd {CHECKOUT} && export {pip} && set -e\n{documented(heading)}")


@pytest.fixture(scope="module", autouse=True)
def checkout() -> None:
    sh(f"cp -r /lab/checkout {CHECKOUT} && cp /lab/packages/{PACKAGE} {CHECKOUT}")


def test_the_package_is_installed_as_documented(igb: list[Pf]) -> None:
    printed = follow("Debian and Ubuntu")
    assert "systemctl enable --now sriov-textfile.timer" in printed
    assert not Path("/etc/systemd/system/timers.target.wants/sriov-textfile.timer").exists()
    assert sh("sriov-textfile").count("sriov_vf_rx_bytes{") == 14


def test_the_timer_is_enabled_as_documented() -> None:
    assert not FILE.exists()
    commands = documented("systemd timer")
    sh(commands.replace("journalctl", "journalctl --no-pager"))
    wait_for(lambda: vfs_in_file() == 14)
    assert sh("systemctl is-enabled sriov-textfile.timer") == "enabled\n"
    page = get("http://127.0.0.1:9100/metrics")
    assert "node_textfile_scrape_error 0\n" in page
    assert page.count("sriov_vf_rx_bytes{") == 14
    report = json.loads(sh("sriov-textfile doctor --json || true"))
    assert report["flags_of"] == ["sriov-textfile.timer"]
    assert report["textfile"]["path"] == str(FILE)


@pytest.fixture(autouse=True)
def stop_and_clean_up() -> Iterator[None]:
    FILE.unlink(missing_ok=True)
    yield
    sh("systemctl disable --now sriov-textfile.timer; systemctl stop 'sriov-textfile*'")
    sh("rm -f /etc/cron.d/sriov-textfile")
    DEFAULTS.write_text("")


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"timed out after {seconds} s:\n{sh('journalctl --no-pager -n 40')}")
        time.sleep(0.2)


def vfs_in_file() -> int:
    return FILE.read_text().count("sriov_vf_rx_bytes{") if FILE.exists() else 0


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as response:
        body: bytes = response.read()
        return body.decode()


def test_systemd_analyze_verify_accepts_the_units() -> None:
    units = " ".join(str(path) for path in VENDOR.glob("sriov-textfile*"))
    assert units.count(".service") == 3
    assert sh(f"systemd-analyze verify {units} 2>&1") == ""


@pytest.mark.parametrize(
    ("unit", "threshold"), [("sriov-textfile", 15), ("sriov-textfile-kubernetes", 25)]
)
def test_systemd_analyze_security_exposure_is_low(unit: str, threshold: int) -> None:
    path = VENDOR / f"{unit}.service"
    sh(f"systemd-analyze security --offline=true --threshold={threshold} {path}")


def test_metrics_from_the_timer_reach_prometheus(igb: list[Pf]) -> None:
    sh("systemctl enable --now sriov-textfile.timer && systemctl start sriov-textfile.service")
    wait_for(lambda: vfs_in_file() == 14)
    status = FILE.stat()
    assert pwd.getpwuid(status.st_uid).pw_name == "sriov-textfile"
    assert stat.filemode(status.st_mode) == "-rw-r--r--"
    first = status.st_mtime_ns
    wait_for(lambda: FILE.exists() and FILE.stat().st_mtime_ns > first)  # the timer fires
    assert sh("systemctl is-failed sriov-textfile.service || true").strip() != "failed"
    page = get("http://127.0.0.1:9100/metrics")
    assert "node_textfile_scrape_error 0\n" in page
    assert page.count("sriov_vf_rx_bytes{") == 14
    report = json.loads(sh("sriov-textfile doctor --json || true"))
    assert report["flags_of"] == ["sriov-textfile.timer"]
    codes = {finding["code"] for finding in report["findings"]}
    assert codes == {"only-zeros"}  # igb has no VF counters
    (node_exporter,) = report["textfile"]["node_exporters"]
    assert (node_exporter["folders"], node_exporter["reads_ours"]) == ([str(FOLDER)], True)
    query = urllib.parse.urlencode({"query": f'sriov_vf_rx_bytes{{pf="{igb[0].netdev}"}}'})

    def series() -> list[object]:
        answer = json.loads(get(f"http://127.0.0.1:9090/api/v1/query?{query}"))
        result: list[object] = answer["data"]["result"]
        return result

    wait_for(series)
    assert len(series()) == 7


def test_the_sandbox_blocks_writes_outside_the_folder() -> None:
    DEFAULTS.write_text("SRIOV_TEXTFILE_PATH=/var/lib/prometheus/elsewhere.prom\n")
    sh("systemctl start sriov-textfile.service || true")
    assert not Path("/var/lib/prometheus/elsewhere.prom").exists()
    journal = sh("journalctl --sync && journalctl --no-pager -n 20 -u sriov-textfile.service")
    assert "cannot write /var/lib/prometheus/elsewhere.prom: Read-only file system" in journal


@pytest.fixture
def node(igb: list[Pf]) -> Iterator[SimulatedNode]:
    """A kubelet that only root may ask, with a pod that uses a VF and a CPU; the flags are set."""
    pod = SimulatedPod(
        "upf-0",
        "core",
        "12345678-9abc-def0-1234-56789abcdef0",
        [SimulatedContainer("app", "a" * 64, "1", {"intel.com/sriov": [igb[0].vf_address(3)]})],
    )
    sh("rm -rf /run/node && mkdir -m 700 /run/node")
    node = SimulatedNode(Path("/run/node"), [pod], numa=("0-1",), pool="0")
    node.checkpoint.chmod(0o600)
    DEFAULTS.write_text(f'SRIOV_TEXTFILE_FLAGS="--timeout=40s {" ".join(node.flags)}"\n')
    with node.running():
        node.socket.chmod(0o600)
        yield node


KUBERNETES = "sriov-textfile-kubernetes.service"


@pytest.mark.usefixtures("node")
def test_the_sandboxed_kubernetes_service_reads_the_kubelet(igb: list[Pf]) -> None:
    """With Debian's grpcio. It is started once it has written the file, and then repeats it."""
    sh(f"systemctl start {KUBERNETES}")
    text = FILE.read_text()
    assert vfs_in_file() == 14
    assert f'pciAddr="{igb[0].vf_address(3)}",pod="upf-0"}} 1\n' in text
    assert 'sriov_kubepodcpu{container_id="' + "a" * 64 + '",cpu_id="1",numa_node="0",' in text
    success = [value for name, _, value in parse(text) if name.endswith("_success")]
    assert success == [1, 1, 1, 1]
    first = FILE.stat().st_mtime_ns
    wait_for(lambda: FILE.stat().st_mtime_ns > first)
    report = json.loads(sh("sriov-textfile doctor --json || true"))
    assert report["flags_of"] == [KUBERNETES]
    assert report["kubelet"]["enabled"]


@pytest.mark.usefixtures("node")
def test_systemd_restarts_the_kubernetes_service_if_it_hangs() -> None:
    dropin = Path(f"/run/systemd/system/{KUBERNETES}.d/watchdog.conf")
    dropin.parent.mkdir(parents=True)
    dropin.write_text("[Service]\nWatchdogSec=10\nRestartSec=1\n")
    show = f"systemctl show --value -p MainPID {KUBERNETES}"
    try:
        sh(f"systemctl daemon-reload && systemctl start {KUBERNETES}")
        first = sh(show)
        time.sleep(15)
        assert sh(show) == first  # The watchdog is fed between collections.
        sh(f"kill -STOP {first}")
        wait_for(lambda: sh(show) not in (first, "0\n"))
    finally:
        dropin.unlink()
        dropin.parent.rmdir()
        sh("systemctl daemon-reload")


def test_the_http_service_serves_metrics() -> None:
    commands = documented("HTTP on port 9808").splitlines()
    sh("\n".join(line for line in commands if line.startswith("systemctl")))

    def page() -> str:
        try:
            return get("http://127.0.0.1:9808/metrics")
        except OSError:
            return ""

    wait_for(page)
    assert page().count("sriov_vf_rx_bytes{") == 14
    assert re.search(r"^process_resident_memory_bytes ", page(), re.MULTILINE)
    sh("systemctl disable sriov-textfile-http.service")


def test_the_http_service_serves_https_to_users_as_documented() -> None:
    """With a certificate, a key and a password that only a group may read."""
    key = "-newkey rsa:2048 -nodes -keyout server.key -out server.pem"
    sh(f"cd /tmp && openssl req -x509 {key} -subj /CN=x -addext subjectAltName=IP:127.0.0.1")
    page = (CHECKOUT / "docs/https.md").read_text()
    Path("/tmp/web.yml").write_text(page.split("```yaml\n")[1].split("```")[0])
    section = page.split("## On a host")[1].split("\n## ")[0]
    commands = re.findall(r"^# (?!systemctl edit)(.*)$", section, re.MULTILINE)
    with_pip = documented("With pip").replace("install .", "install '.[http]'").splitlines()
    assert commands[:3] == with_pip
    pip = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels"
    sh(f"cd {CHECKOUT} && mv /tmp/web.yml /tmp/server.* . && set -e; {pip}\n" + "\n".join(commands))
    dropin = Path("/etc/systemd/system/sriov-textfile-http.service.d/https.conf")
    dropin.parent.mkdir()
    dropin.write_text(section.split("```ini\n")[1].split("```")[0])
    defaults = DEFAULTS.read_text()
    DEFAULTS.write_text("".join(re.findall(r'SRIOV_TEXTFILE_HTTP_FLAGS=".+"', section)))
    try:
        sh("systemctl daemon-reload && systemctl start sriov-textfile-http.service")
        curl = "curl -sS --cacert /etc/sriov-textfile/server.pem"
        url = "https://127.0.0.1:9808/metrics"
        ask = f"{curl} --user 'prometheus:correct horse' {url} || true"
        wait_for(lambda: sh(ask).count("sriov_vf_rx_bytes{") == 14)
        assert sh(f"{curl} --user prometheus:wrong {url}") == "Unauthorized\n"
    finally:
        DEFAULTS.write_text(defaults)
        dropin.unlink()
        dropin.parent.rmdir()
        sh("systemctl stop sriov-textfile-http.service && systemctl daemon-reload")
        # The package's is the program again.
        sh("rm -r /usr/local/bin/sriov-textfile /opt/sriov-textfile /etc/sriov-textfile")


def test_the_socket_starts_the_http_service() -> None:
    defaults = DEFAULTS.read_text()
    DEFAULTS.write_text('SRIOV_TEXTFILE_HTTP_FLAGS="--web.systemd-socket"')
    try:
        sh("systemctl start sriov-textfile-http.socket")
        assert "inactive" in sh("systemctl is-active sriov-textfile-http.service || true")
        assert sh("curl -sS http://127.0.0.1:9808/metrics").count("sriov_vf_rx_bytes{") == 14
    finally:
        sh("systemctl stop sriov-textfile-http.socket sriov-textfile-http.service")
        DEFAULTS.write_text(defaults)


def test_cron_writes_the_file() -> None:
    follow("cron")
    wait_for(lambda: vfs_in_file() == 14, seconds=150)
    assert FILE.owner() == "sriov-textfile"
    assert stat.filemode(FILE.stat().st_mode) == "-rw-r--r--"


def test_a_cron_run_logs_to_the_journal() -> None:
    line = (CHECKOUT / "cron/sriov-textfile").read_text().splitlines()[-1]
    command = line.split("sriov-textfile ", 1)[1].replace(str(FILE), "/nowhere/sriov.prom")
    sh(command)
    journal = "journalctl --no-pager -t sriov-textfile"
    wait_for(lambda: "cannot write /nowhere/sriov.prom" in sh(journal))


# --- the package, once more -------------------------------------------------------------------


def test_an_upgrade_keeps_the_edited_default_file_and_what_runs(node: SimulatedNode) -> None:
    """The timer keeps running, and a service that runs is restarted with the new program."""
    edited = f'SRIOV_TEXTFILE_FLAGS="--timeout=40s --collector.vfinfo {" ".join(node.flags)}"\n'
    DEFAULTS.write_text(edited)
    sh(f"systemctl enable --now sriov-textfile.timer && systemctl start {KUBERNETES}")
    since = "systemctl show --value -p ActiveEnterTimestamp sriov-textfile.timer"
    process = f"systemctl show --value -p MainPID {KUBERNETES}"
    before, old = sh(since), sh(process)
    sh("apt-get install -qy /lab/packages/sriov-textfile_9*.deb 2>&1")
    assert DEFAULTS.read_text() == edited
    assert sh(since) == before
    assert sh(process) not in (old, "0\n")
    sh(f"systemctl stop {KUBERNETES}")
    FILE.unlink()
    wait_for(lambda: FILE.exists() and "sriov_vf_info{" in FILE.read_text())


def test_purge_leaves_nothing() -> None:
    sh("systemctl enable --now sriov-textfile.timer sriov-textfile-http.service")
    wait_for(lambda: vfs_in_file() == 14)
    sh("apt-get purge -qy sriov-textfile 2>&1")
    assert sh("systemctl list-units --all 'sriov-textfile*' --plain --no-legend") == ""
    assert (
        sh("find /etc /usr /var /run -xdev -name '*sriov-textfile*' -not -path '/var/log/*'") == ""
    )
    assert [path.name for path in FOLDER.glob("*sriov*")] == []
    assert "sriov" not in sh(f"getfacl -p {FOLDER}")
    sh("! id sriov-textfile")

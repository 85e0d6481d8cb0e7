"""Given one web configuration file, this program and node_exporter accept the same clients.

The clients are curl and a Prometheus with tls_config and basic_auth.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.conftest import Prometheus, free_port, started
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from tests.test_web_config import TLS, Authority, hashed, rewrite
from tools.fetch import CACHE, debian_program

CLIENTS = "  client_ca_file: ca.pem\n  client_auth_type: "
USERS = f"basic_auth_users:\n  ann: {hashed('secret')}\n"
HEADERS = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n"

FILES = {
    "nothing": "",
    "users": USERS,
    "headers": HEADERS,
    "TLS": TLS,
    "TLS 1.3": TLS + "  min_version: TLS13\n",
    # Without http2: false, Go asks for another cipher in the list.
    "a cipher": TLS
    + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n"
    + "http_server_config:\n  http2: false\n",
    "TLS and users": TLS + USERS,
    "client certificates": TLS + CLIENTS + "RequireAndVerifyClientCert\n",
    "client certificates if given": TLS + CLIENTS + "VerifyClientCertIfGiven\n",
    "requested certificates": TLS + CLIENTS + "RequestClientCert\n",
    "client certificates and users": TLS + CLIENTS + "RequireAndVerifyClientCert\n" + USERS,
}
ANN = ["--user", "ann:secret"]
CA = ["--cacert", "{folder}/ca.pem"]
CERTIFICATE = ["--cert", "{folder}/client.pem", "--key", "{folder}/client.key"]
OTHER = ["--cert", "{folder}/other/client.pem", "--key", "{folder}/other/client.key"]
REQUESTS = {
    "http": ["http"],
    "http as a user": ["http", *ANN],
    "http with a wrong password": ["http", "--user", "ann:wrong"],
    "http as an unknown user": ["http", "--user", "bob:secret"],
    "https": ["https", *CA],
    "https with TLS 1.2": ["https", *CA, "--tls-max", "1.2"],
    "https with one cipher": [
        "https", *CA, "--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256",
    ],
    "https as a user": ["https", *CA, *ANN],
    "https with a wrong password": ["https", *CA, "--user", "ann:wrong"],
    "https with a certificate": ["https", *CA, *CERTIFICATE],
    "https with a certificate as a user": ["https", *CA, *CERTIFICATE, *ANN],
    "https with a stranger's certificate": ["https", *CA, *OTHER],
    "https without the authority": ["https"],
}  # fmt: skip
WRONG = {
    "no YAML": "[",
    "an unknown key": "basic_auth_user: {}",
    "an unknown key of TLS": TLS + "  cert: x\n  certfile: y\n",
    "a repeated key": "basic_auth_users: {}\nbasic_auth_users: {}",
    "no key": "tls_server_config:\n  cert_file: server.pem",
    "a missing file": TLS.replace("server.key", "none.key"),
    "no certificate": TLS.replace("server.pem", "web.yml"),
    "an unknown version": TLS + "  min_version: TLS9",
    "an unknown cipher": TLS + "  cipher_suites: [RC4]",
    "an unknown curve": TLS + "  curve_preferences: [P1]",
    "an unknown kind of client certificate": TLS + "  client_auth_type: Maybe",
    "authorities without client certificates": TLS + "  client_ca_file: ca.pem",
    "a password that is no hash": "basic_auth_users:\n  ann: secret",
    "an unknown header": "http_server_config:\n  headers: {X-Other: 1}",
    "a wrong value of a header": "http_server_config:\n  headers: {X-Frame-Options: 1}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates of the server, of a client, and of a stranger."""
    folder = tmp_path_factory.mktemp("web")
    Authority(folder).issue("client", "prometheus.example")
    (folder / "other").mkdir()
    Authority(folder / "other").issue("client", "prometheus.example")
    return folder


@pytest.fixture(scope="module")
def programs(debian: Path, folder: Path) -> dict[str, list[str]]:
    """The command line of both programs, without address and file."""
    host = SimulatedHost(folder / "host", [SimulatedPf(vfs=2)])
    ours = [sys.executable, "-m", "sriov_textfile", "serve", *host.flags]
    node_exporter = [str(debian / "usr/bin/prometheus-node-exporter")]
    node_exporter += ["--collector.disable-defaults", "--collector.textfile"]
    rates = ["--web.rate-limit=1000", "--web.rate-burst=1000"]
    return {"sriov-textfile": [*ours, *rates], "node_exporter": node_exporter}


@pytest.fixture(scope="module")
def curl() -> list[str]:
    return debian_program("curl", "usr/bin/curl", CACHE / "curl")


def wait_for_listener(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


class Both:
    """Both programs, running with one web configuration file."""

    def __init__(self, programs: dict[str, list[str]], file: Path, curl: list[str]) -> None:
        self.file = file
        self._curl = curl
        self._programs = programs
        self.ports: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Both:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        for name, command in self._programs.items():
            self.ports[name] = port = free_port()
            address = [f"--web.listen-address=127.0.0.1:{port}", f"--web.config.file={self.file}"]
            quiet = subprocess.DEVNULL
            program = subprocess.Popen([*command, *address], stdout=quiet, stderr=quiet)
            self._stack.callback(program.wait)
            self._stack.callback(program.kill)
            wait_for_listener(port)

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def outcome(self, name: str, request: list[str]) -> str:
        """Return what one program does with a request: its status, or `refused`."""
        scheme, *options = [word.format(folder=self.file.parent) for word in request]
        url = f"{scheme}://127.0.0.1:{self.ports[name]}/metrics"
        command = [
            *self._curl,
            "-sS",
            "--max-time",
            "20",
            "--http1.1",
            "-D",
            "-",
            "-o",
            "/dev/null",
        ]
        done = subprocess.run([*command, *options, url], capture_output=True, text=True)
        words = done.stdout.split()
        status = words[1] if len(words) > 1 else ""
        # To plain HTTP on a port with TLS, Go answers 400 without TLS, and we close the connection.
        if done.returncode or status == "400":
            return "refused"
        return (
            f"{status} with X-Frame-Options" if "X-Frame-Options: deny" in done.stdout else status
        )

    def outcomes(self, request: list[str]) -> list[str]:
        """Return what each program does."""
        return [self.outcome(name, request) for name in self.ports]


@pytest.mark.parametrize("file", FILES)
def test_both_accept_and_refuse_the_same_requests(
    programs: dict[str, list[str]], folder: Path, curl: list[str], file: str
) -> None:
    path = folder / "web.yml"
    path.write_text(FILES[file])
    with Both(programs, path, curl) as both:
        results = {name: both.outcomes(request) for name, request in REQUESTS.items()}
    for name, (ours, theirs) in results.items():
        print(f"{file}: {name}: {ours}")
        assert ours == theirs, name
    assert any(ours.startswith("200") for ours, _ in results.values())
    assert any(not ours.startswith("200") for ours, _ in results.values())


@pytest.mark.parametrize("file", WRONG)
def test_neither_starts_with_a_wrong_file(
    programs: dict[str, list[str]], folder: Path, file: str
) -> None:
    path = folder / "web.yml"
    path.write_text(WRONG[file])
    for name, command in programs.items():
        address = f"--web.listen-address=127.0.0.1:{free_port()}"
        done = subprocess.run(
            [*command, address, f"--web.config.file={path}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 1, name


def test_both_follow_a_change(
    programs: dict[str, list[str]], folder: Path, curl: list[str]
) -> None:
    path = folder / "web.yml"
    path.write_text(TLS + USERS)
    user = REQUESTS["https as a user"]
    with Both(programs, path, curl) as both:
        assert both.outcomes(user) == ["200", "200"]
        rewrite(path, TLS + f"basic_auth_users:\n  ann: {hashed('changed')}\n")
        assert both.outcomes(user) == ["401", "401"]
        assert both.outcomes(["https", *CA, "--user", "ann:changed"]) == ["200", "200"]
        path.write_text("[")
        assert both.outcomes(user) == ["refused", "refused"]
        path.unlink()
        assert both.outcomes(user) == ["refused", "refused"]
        path.write_text(TLS + CLIENTS + "RequireAndVerifyClientCert\n")
        assert both.outcomes(user) == ["refused", "refused"]
        assert both.outcomes(REQUESTS["https with a certificate"]) == ["200", "200"]
        path.write_text(TLS + USERS)
        assert both.outcomes(user) == ["200", "200"]


def test_a_wrong_file_without_tls_is_an_error_500_of_both(
    programs: dict[str, list[str]], folder: Path, curl: list[str]
) -> None:
    path = folder / "web.yml"
    path.write_text(USERS)
    with Both(programs, path, curl) as both:
        path.write_text("[")
        assert both.outcomes(REQUESTS["http as a user"]) == ["500", "500"]


def test_prometheus_scrapes_both_with_the_same_configuration(
    programs: dict[str, list[str]], folder: Path, curl: list[str], debian: Path
) -> None:
    path = folder / "web.yml"
    path.write_text(FILES["client certificates and users"])
    ca = {"ca_file": f"{folder}/ca.pem"}
    client = {"cert_file": f"{folder}/client.pem", "key_file": f"{folder}/client.key"}
    stranger = {name: f"{folder}/other/{Path(file).name}" for name, file in client.items()}
    ann = {"basic_auth": {"username": "ann", "password": "secret"}}
    jobs: dict[str, dict[str, object]] = {
        "right": {"tls_config": {**ca, **client}, **ann},
        "no password": {"tls_config": {**ca, **client}},
        "no certificate": {"tls_config": ca, **ann},
        "a stranger's certificate": {"tls_config": {**ca, **stranger}, **ann},
    }
    with Both(programs, path, curl) as both, ExitStack() as stack:
        scrapes = [
            {
                "job_name": f"{job} {name}",
                "scheme": "https",
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
                **settings,
            }
            for job, settings in jobs.items()
            for name, port in both.ports.items()
        ]
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        address = f"127.0.0.1:{free_port()}"
        command = [
            str(debian / "usr/bin/prometheus"),
            f"--web.listen-address={address}",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
        ]
        url = f"http://{address}"
        stack.enter_context(started(command, folder / "prometheus.log", f"{url}/-/ready"))
        prometheus = Prometheus(url, [])
        prometheus.wait_for(f"count(count_over_time(up[1m]) > 2) == {len(scrapes)}")
        ever_up = prometheus.query("max_over_time(up[1m])")
        up = {s["metric"]["job"]: s["value"][1] for s in ever_up}
    expected = {f"{job} {name}": str(int(job == "right")) for job in jobs for name in both.ports}
    assert up == expected

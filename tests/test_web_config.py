"""--web.config.file: TLS, client certificates, users and headers; --web.systemd-socket."""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from sriov_textfile.outputs.http import tls
from sriov_textfile.outputs.http.web_config import WebConfigFile
from sriov_textfile.problems import ProblemError
from tests.test_http import Server, serve

__all__ = ["serve"]  # a fixture

Serve = Callable[..., Server]
PROJECT = Path(__file__).parent.parent


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class Authority:
    """A certificate authority, with a server's and clients' certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.issue("server", "127.0.0.1")

    def issue(self, name: str, *identities: str) -> None:
        """Write NAME.pem and NAME.key."""
        certificate = self.ca.issue_cert(*identities)
        certificate.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.pem"))

    def context(self, client: str = "") -> ssl.SSLContext:
        """Return the settings of a client that trusts the authority."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if client:
            context.load_cert_chain(self.folder / f"{client}.pem", self.folder / f"{client}.key")
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The web configuration file."""
    return tmp_path / "web.yml"


TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
VERIFIED = TLS + "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"


def rewrite(path: Path, text: str) -> None:
    """Write a file so that its times differ from those it had."""
    path.write_text(text)
    later = time.time() + 10
    os.utime(path, (later, later))


def is_closed(client: socket.socket) -> bool:
    """Wait until the server has closed a connection."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


# --- users and headers ----------------------------------------------------------------------


def test_only_users_are_answered(serve: Serve, path: Path) -> None:
    path.write_text(f"basic_auth_users:\n  ann: {hashed('secret')}\n  bob:\n")
    server = serve(f"--web.config.file={path}")

    def status(**headers: str) -> int:
        return server.request("GET", "/metrics", **headers)[0]

    assert status(**basic("ann", "secret")) == 200
    code, headers, body = server.request("GET", "/metrics")
    assert (code, headers["WWW-Authenticate"], body) == (401, "Basic", b"Unauthorized\n")
    assert status(**basic("ann", "wrong")) == 401
    assert status(**basic("bob", "")) == 401
    assert status(Authorization="Basic !") == 401
    assert status(Authorization="Bearer secret") == 401
    assert server.request("GET", "/nothing")[0] == 401
    assert server.request("GET", "/nothing", **basic("ann", "secret"))[0] == 404


def test_a_right_password_is_accepted_while_wrong_ones_are_tried(serve: Serve, path: Path) -> None:
    path.write_text(f"basic_auth_users:\n  ann: {hashed('secret')}\n")
    server = serve(f"--web.config.file={path}")
    assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 200
    for number in range(30):
        assert server.request("GET", "/", **basic("ann", f"guess {number}"))[0] == 401
    assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 200


def test_the_right_password_is_not_looked_at_after_many_attempts(serve: Serve, path: Path) -> None:
    """Each look costs as much CPU time as a large collection."""
    path.write_text(f"basic_auth_users:\n  ann: {hashed('secret')}\n")
    server = serve(f"--web.config.file={path}")
    for number in range(30):
        assert server.request("GET", "/", **basic("ann", f"guess {number}"))[0] == 401
    assert server.request("GET", "/", **basic("ann", "secret"))[0] == 401


def test_headers_are_part_of_every_answer(serve: Serve, path: Path) -> None:
    path.write_text("http_server_config:\n  headers:\n    X-Frame-Options: deny\n")
    server = serve(f"--web.config.file={path}")
    for target in ("/metrics", "/nothing"):
        assert server.request("GET", target)[1]["X-Frame-Options"] == "deny"


@pytest.mark.parametrize("value", ['" max-age=1; preload "', "|\n      max-age=1; preload"])
def test_white_space_around_the_value_of_a_header_is_left_out(
    serve: Serve, path: Path, value: str
) -> None:
    name = "Strict-Transport-Security"
    path.write_text(f"http_server_config:\n  headers:\n    {name}: {value}\n")
    server = serve(f"--web.config.file={path}")
    assert server.request("GET", "/metrics")[1][name] == "max-age=1; preload"


def test_a_password_of_more_than_72_bytes_counts_up_to_there(serve: Serve, path: Path) -> None:
    path.write_text(f"basic_auth_users:\n  ann: {hashed('x' * 72)}\n")
    server = serve(f"--web.config.file={path}")
    assert server.request("GET", "/metrics", **basic("ann", "x" * 100))[0] == 200


# --- TLS ------------------------------------------------------------------------------------


def test_metrics_are_served_over_tls(serve: Serve, path: Path, authority: Authority) -> None:
    path.write_text(TLS)
    server = serve(f"--web.config.file={path}")
    for _ in range(2):
        assert server.scrape_over(authority.context()) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        server.scrape_over(ssl.create_default_context())
    with pytest.raises(ConnectionError):
        server.request("GET", "/metrics")


def test_several_requests_of_one_tls_connection_are_answered(
    serve: Serve, path: Path, authority: Authority
) -> None:
    path.write_text(TLS)
    server = serve(f"--web.config.file={path}", "--web.rate-burst=50")
    with authority.context().wrap_socket(server.connect(), server_hostname="127.0.0.1") as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while data := client.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 21


def test_a_certificate_can_be_part_of_the_file(
    serve: Serve, path: Path, authority: Authority
) -> None:
    lines = ["tls_server_config:"]
    for key, name in (("cert", "server.pem"), ("key", "server.key")):
        text = (authority.folder / name).read_text().strip().replace("\n", "\n    ")
        lines.append(f"  {key}: |\n    {text}")
        (authority.folder / name).unlink()
    path.write_text("\n".join(lines))
    server = serve(f"--web.config.file={path}")
    assert server.scrape_over(authority.context()) == 200


def test_only_clients_with_a_verified_certificate_are_answered(
    serve: Serve, path: Path, authority: Authority, tmp_path: Path
) -> None:
    path.write_text(VERIFIED)
    server = serve(f"--web.config.file={path}")
    authority.issue("client", "prometheus.example")
    assert server.scrape_over(authority.context("client")) == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.scrape_over(authority.context())
    folder = tmp_path / "other"
    folder.mkdir()
    Authority(folder).issue("client", "prometheus.example")
    stranger = authority.context()
    stranger.load_cert_chain(folder / "client.pem", folder / "client.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.scrape_over(stranger)


@pytest.mark.parametrize("name", ["prometheus.example", "192.0.2.1", "2001:db8::1"])
def test_only_certificates_with_an_allowed_name_are_accepted(
    serve: Serve, path: Path, authority: Authority, name: str
) -> None:
    path.write_text(VERIFIED + f"  client_allowed_sans: ['{name}']\n")
    server = serve(f"--web.config.file={path}")
    authority.issue("client", "another.example", name)
    authority.issue("other", "other.example", "192.0.2.2")
    assert server.scrape_over(authority.context("client")) == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.scrape_over(authority.context("other"))


def test_a_certificate_is_verified_if_given(serve: Serve, path: Path, authority: Authority) -> None:
    path.write_text(VERIFIED.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))
    server = serve(f"--web.config.file={path}")
    assert server.scrape_over(authority.context()) == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_are_limited(
    serve: Serve, path: Path, authority: Authority, version: ssl.TLSVersion
) -> None:
    path.write_text(TLS + "  min_version: TLS13\n")
    server = serve(f"--web.config.file={path}")
    client = authority.context()
    client.maximum_version = version
    if version == ssl.TLSVersion.TLSv1_3:
        assert server.scrape_over(client) == 200
    else:
        with pytest.raises(ssl.SSLError):
            server.scrape_over(client)


def test_only_the_ciphers_of_the_file_are_used(
    serve: Serve, path: Path, authority: Authority
) -> None:
    cipher = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    path.write_text(TLS + f"  max_version: TLS12\n  cipher_suites: [{cipher}]\n")
    server = serve(f"--web.config.file={path}")
    with authority.context().wrap_socket(server.connect(), server_hostname="127.0.0.1") as client:
        assert (client.cipher() or [""])[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    other = authority.context()
    other.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises(ssl.SSLError):
        server.scrape_over(other)


@pytest.mark.parametrize("cipher", [name for name in tls._CIPHERS.values() if name])
def test_openssl_has_every_cipher_under_its_name(cipher: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(cipher + ":@SECLEVEL=0")
    assert cipher in [known["name"] for known in context.get_ciphers()]


def test_a_silent_client_does_not_keep_its_connection(
    serve: Serve, path: Path, authority: Authority
) -> None:
    path.write_text(TLS)
    server = serve(f"--web.config.file={path}")
    start = time.monotonic()
    with server.connect() as silent, server.connect() as half:
        half.sendall(b"\x16\x03\x01")
        assert server.scrape_over(authority.context()) == 200
        assert is_closed(silent)
        assert is_closed(half)
        assert time.monotonic() - start > 3


# --- changes --------------------------------------------------------------------------------


def test_a_change_of_the_file_has_effect_at_once(serve: Serve, path: Path) -> None:
    path.write_text(f"basic_auth_users:\n  ann: {hashed('secret')}\n")
    server = serve(f"--web.config.file={path}")
    assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 200
    rewrite(path, f"basic_auth_users:\n  ann: {hashed('changed')}\n")
    assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 401
    assert server.request("GET", "/metrics", **basic("ann", "changed"))[0] == 200


def test_a_renewed_certificate_is_used_for_the_next_connection(
    serve: Serve, path: Path, authority: Authority
) -> None:
    path.write_text(TLS)
    server = serve(f"--web.config.file={path}")

    def certificate() -> bytes | None:
        context = authority.context()
        with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as client:
            return client.getpeercert(binary_form=True)

    first = certificate()
    assert certificate() == first
    authority.issue("server", "127.0.0.1")
    assert certificate() != first


def test_while_a_file_is_wrong_everyone_is_refused_and_the_log_says_why(
    serve: Serve, path: Path
) -> None:
    right = f"basic_auth_users:\n  ann: {hashed('secret')}\n"
    path.write_text(right)
    server = serve(f"--web.config.file={path}")
    rewrite(path, "basic_auth_user: {}\n")
    for _ in range(3):
        assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 500
    path.unlink()
    assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 500
    path.write_text(right)
    assert server.request("GET", "/metrics", **basic("ann", "secret"))[0] == 200
    server.stop()
    lines = server.rest_of_log.splitlines()
    assert [line.count("code=web-config") for line in lines] == [1] * len(lines)
    assert "unknown field `basic_auth_user`" in lines[0]
    assert "No such file or directory" in "".join(lines)
    assert "resolved: " in lines[-1]


# --- wrong files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "line 1: "),
        ("a: \0", "character 3: special characters are not allowed"),
        ("[" * 9999, "maximum recursion depth"),
        ("a: b", "unknown field `a`"),
        ("- a", "got `array`"),
        ("basic_auth_users:\n  a: b", "the password of the user a is not a bcrypt hash"),
        ("basic_auth_users: {}\nbasic_auth_users: {}", "line 2: basic_auth_users is repeated"),
        ("http_server_config:\n  headers: {X-Other: 1}", "the header X-Other cannot be set"),
        ("http_server_config:\n  headers: {X-Frame-Options: 1}", "X-Frame-Options cannot be '1'"),
        ("http_server_config:\n  http2: maybe", "$.http_server_config.http2"),
        ("tls_server_config:\n  cert_file: server.pem", "TLS needs cert_file and key_file"),
        ("tls_server_config:\n  client_auth_type: NoClientCert", "TLS needs cert_file"),
        (TLS.replace("server.key", "none.key"), "none.key: No such file or directory"),
        (TLS.replace("server.key", "ca.pem"), "are not a certificate and its key"),
        (TLS.replace("server.pem", "web.yml"), "are not a certificate and its key"),
        (TLS + "  min_version: TLS9", "$.tls_server_config.min_version"),
        (TLS + "  cipher_suites: [RC4]", "unknown cipher RC4"),
        (TLS + "  curve_preferences: [CurveP256, X25519]", "$.tls_server_config.curve_preferences"),
        (TLS + "  client_ca_file: ca.pem", "client_ca_file needs a client_auth_type"),
        (TLS + "  client_auth_type: RequireAnyClientCert", "RequireAnyClientCert is not supported"),
        (TLS + "  client_allowed_sans: [a]", "client_allowed_sans needs client_auth_type"),
        (VERIFIED.replace("ca.pem", "web.yml"), "web.yml has no certificate"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(
    path: Path, authority: Authority, text: str, reason: str
) -> None:
    path.write_text(text)
    with pytest.raises(ProblemError) as raised:
        WebConfigFile(str(path)).current()
    assert reason in raised.value.problem.reason
    assert str(path) in raised.value.problem.reason
    assert "\n" not in raised.value.problem.reason


def test_the_documented_file_has_the_documented_password(path: Path, authority: Authority) -> None:
    page = (PROJECT / "docs/https.md").read_text()
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    ((user, password),) = WebConfigFile(str(path)).current().users.items()
    assert user == "prometheus"
    assert bcrypt.checkpw(b"correct horse", password.encode())


def test_every_key_is_documented() -> None:
    table = (PROJECT / "docs/https.md").read_text().split("## All keys")[1].split("\n## ")[0]
    for key in tls.TlsSettings.__struct_fields__:
        assert re.search(rf"\b{key}\b", table), key


def test_a_key_with_a_password_is_refused(path: Path, authority: Authority) -> None:
    path.write_text(TLS)
    file = authority.folder / "server.key"
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(ProblemError, match="the key has a password"):
        WebConfigFile(str(path)).current()


def test_serve_does_not_start_with_a_wrong_file(path: Path) -> None:
    path.write_text("a: b")
    command = [sys.executable, "-m", "sriov_textfile", "serve", "--web.listen-address=127.0.0.1:0"]
    done = subprocess.run([*command, f"--web.config.file={path}"], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot use {path} (--web.config.file): " in done.stderr


# --- --web.systemd-socket -------------------------------------------------------------------

# Does what systemd does: passes file descriptor 3, and the process ID.
ACTIVATE = """
import os, sys
fd = int(sys.argv[1])
if fd >= 0:
    os.dup2(fd, 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "sriov_textfile", *sys.argv[2:]])
"""


def activated(fd: int, *arguments: str) -> list[str]:
    return [sys.executable, "-c", ACTIVATE, str(fd), "serve", "--web.systemd-socket", *arguments]


def test_the_sockets_of_systemd_are_served(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = activated(listener.fileno())
        server = serve(command=command, pass_fds=(listener.fileno(),))
    assert server.port == port
    assert server.request("GET", "/metrics")[0] == 200


@pytest.mark.parametrize("address", ["", "\0sriov-client"])
def test_clients_of_a_unix_socket_are_served(tmp_path: Path, address: str) -> None:
    """A client may have bound its own socket to an abstract address."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        command = activated(listener.fileno(), f"--path.sysbuspci={tmp_path}")
        program = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, pass_fds=[listener.fileno()]
        )
    try:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                if address:
                    client.bind(f"{address}-{os.getpid()}")
                client.settimeout(20)
                client.connect(path)
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
        assert program.poll() is None
    finally:
        program.kill()
        _, log = program.communicate()
    assert f"address={path}" in log


@pytest.mark.parametrize("kind", ["none", "a pipe", "not listening"])
def test_without_a_listening_socket_it_exits_1_and_says_why(kind: str) -> None:
    reader, writer = os.pipe()
    with socket.socket() as plain:
        fd = {"none": -1, "a pipe": reader, "not listening": plain.fileno()}[kind]
        done = subprocess.run(
            activated(fd), capture_output=True, text=True, pass_fds=[fd] if fd >= 0 else []
        )
    os.close(reader)
    os.close(writer)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert ".socket unit" in done.stderr

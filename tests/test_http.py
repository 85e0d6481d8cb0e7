"""serve: answers GET /metrics at a limited rate, and rejects all other requests."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sriov_textfile import __version__, flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.outputs.http import connections
from sriov_textfile.outputs.http.application import Application
from sriov_textfile.outputs.http.messages import Request, Response
from sriov_textfile.outputs.http.rate_limits import RateLimits, TokenBucket
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from tests.conftest import Host, MakeHost

SERVE = (sys.executable, "-m", "sriov_textfile", "serve")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Server:
    """A process that runs `sriov-textfile serve` on a free port."""

    def __init__(
        self, *arguments: str, command: Sequence[str] = SERVE, pass_fds: Sequence[int] = ()
    ) -> None:
        # Background jobs of a shell start with SIGINT ignored.
        command = ["env", "--default-signal=INT", *command, *arguments]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds
        )
        assert self.process.stderr
        self.log = self.process.stderr.readline()
        match = re.search(r"msg=started .*mode=serve address=(.*):(\d+)\b", self.log)
        assert match, self.log
        self.port = int(match[2])
        self.rest_of_log = ""

    def request(
        self,
        method: str,
        path: str,
        body: str | None = None,
        **headers: str,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.msg, response.read()

    def scrape_over(self, tls: ssl.SSLContext, **headers: str) -> int:
        """Return the status of the answer to GET /metrics over TLS."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=tls)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers=headers)
            return connection.getresponse().status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    @property
    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.rest_of_log = self.process.communicate(timeout=10)[1]
        return self.process.returncode


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    servers = []

    def serve(*arguments: str, address: str = "127.0.0.1:0", **options: Any) -> Server:
        paths = [*host.flags, f"--web.listen-address={address}"]
        servers.append(Server(*paths, *arguments, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.process.kill()
        server.process.communicate()


def test_the_log_begins_with_version_address_and_what_was_found(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    fields = f"version={__version__} mode=serve address=127.0.0.1:{server.port} pfs=1 vfs=2\n"
    assert server.log.endswith(f" level=info msg=started {fields}")


# --- responses ------------------------------------------------------------------------------


def test_get_metrics_returns_vf_and_process_metrics(serve: Callable[..., Server]) -> None:
    status, headers, body = serve().request("GET", "/metrics")
    text = body.decode()
    assert (status, headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert 'pf="ens1f0",vf="1"} 1003\n' in text
    assert text.startswith("# HELP sriov_vf_rx_bytes ")
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"process_resident_memory_bytes", "python_info"} <= families


def test_a_query_string_is_ignored(serve: Callable[..., Server]) -> None:
    assert serve().request("GET", "/metrics?collect[]=x")[0] == 200


def test_the_body_is_gzipped_if_the_client_accepts_gzip(serve: Callable[..., Server]) -> None:
    server = serve()
    _, headers, body = server.request("GET", "/metrics", **{"Accept-Encoding": "br, gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).startswith(b"# HELP sriov_vf_rx_bytes ")
    _, headers, body = server.request("GET", "/metrics")
    assert headers["Content-Encoding"] is None
    assert headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/METRICS", "/favicon.ico", "//"])
def test_other_paths_are_404(serve: Callable[..., Server], path: str) -> None:
    status, _, body = serve().request("GET", path)
    assert (status, body) == (404, b"Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"])
def test_other_methods_are_405(serve: Callable[..., Server], method: str) -> None:
    status, headers, body = serve().request(method, "/metrics")
    assert (status, body, headers["Allow"]) == (405, b"Method Not Allowed\n", "GET")


def test_head_is_405_without_a_body_and_the_connection_goes_on(
    serve: Callable[..., Server],
) -> None:
    with serve().connect() as client:
        client.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.recv(65536)
        assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
        assert head.endswith(b"\r\n\r\n")
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_waits_for_100_continue_gets_its_400(serve: Callable[..., Server]) -> None:
    with serve().connect() as client:
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        client.sendall(request + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    ("accepted", "gzipped"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.5, identity;q=0.1", True),
        ("*", True),
        ("", False),
        ("gzip;q=0", False),
        ("notgzip", False),
        ("identity, gzip;q=0.5", False),
        ("gzip;q=nonsense", False),
    ],
)
def test_accept_encoding_is_read_as_rfc_9110_defines_it(
    serve: Callable[..., Server], accepted: str, gzipped: bool
) -> None:
    _, headers, body = serve().request("GET", "/metrics", **{"Accept-Encoding": accepted})
    assert (headers["Content-Encoding"] == "gzip") is gzipped
    assert body.startswith(b"\x1f\x8b") is gzipped


MALFORMED = [
    b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET  /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    b"nonsense\r\n\r\n",
]


def test_malformed_requests_are_400_counted_and_logged_once(serve: Callable[..., Server]) -> None:
    server = serve()
    for request in MALFORMED * 3:
        with server.connect() as client:
            client.sendall(request)
            assert client.recv(65536).startswith(b"HTTP/1.1 400 Bad Request\r\n"), request
    text = server.request("GET", "/metrics")[2].decode()
    assert 'promhttp_metric_handler_requests_total{code="400"} 15.0\n' in text
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=10)
    assert len(log.splitlines()) == 1
    assert "malformed request from " in log


@pytest.mark.parametrize("header", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_head_with_a_body_is_400_without_a_body(
    serve: Callable[..., Server], header: bytes
) -> None:
    with serve().connect() as client:
        client.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\n")


def test_two_requests_in_one_packet_get_two_answers(serve: Callable[..., Server]) -> None:
    with serve().connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        answers = b""
        while answers.count(b"Not Found\n") < 2:
            answers += client.recv(65536)
        assert answers.count(b"HTTP/1.1 404 ") == 2


def test_an_absolute_request_target_is_accepted(serve: Callable[..., Server]) -> None:
    assert serve().request("GET", "http://node-1:9808/metrics")[0] == 200


@pytest.mark.parametrize("size", [1, 100, 5_000_000])
def test_a_request_with_a_body_is_400(serve: Callable[..., Server], size: int) -> None:
    with serve().connect() as client:
        client.sendall(
            f"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_request_with_a_chunked_body_is_400(serve: Callable[..., Server]) -> None:
    with serve().connect() as client:
        client.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_requests_beyond_the_burst_are_429(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=1", "--web.rate-burst=3")
    answers = [server.request("GET", "/metrics") for _ in range(6)]
    assert [status for status, *_ in answers][:3] == [200, 200, 200]
    assert answers[-1][0] == 429
    assert answers[-1][2] == b"Too Many Requests\n"


def test_requests_are_counted_by_status_code(serve: Callable[..., Server]) -> None:
    server = serve()
    server.request("GET", "/")
    server.request("GET", "/")
    server.request("GET", "/metrics")
    text = server.request("GET", "/metrics")[2].decode()
    assert 'promhttp_metric_handler_requests_total{code="404"} 2.0\n' in text
    assert 'promhttp_metric_handler_requests_total{code="200"} 1.0\n' in text
    assert "_created" not in text


def test_the_token_bucket_refills_at_its_rate_up_to_the_burst() -> None:
    now = 0.0
    bucket = TokenBucket(rate=2, burst=3, clock=lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now = 1000.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_only_metrics_takes_from_the_rate_limit(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=1", "--web.rate-burst=1")
    assert [server.request("GET", "/nothing")[0] for _ in range(30)] == [404] * 30
    assert server.request("GET", "/metrics")[0] == 200


def test_each_address_has_a_rate_limit_of_its_own() -> None:
    limits = RateLimits(rate=1, burst=2, clock=lambda: 0.0)
    assert [limits.allow("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert limits.allow("192.0.2.2")


def test_one_address_cannot_use_up_the_limit_of_all() -> None:
    limits = RateLimits(rate=1, burst=2, clock=lambda: 0.0)
    for _ in range(1000):
        limits.allow("192.0.2.1")
    assert limits.allow("192.0.2.2")


def test_all_addresses_together_have_a_limit() -> None:
    limits = RateLimits(rate=1, burst=2, clock=lambda: 0.0)
    allowed = [limits.allow(f"192.0.2.{n}") for n in range(250)]
    assert sum(allowed) == 20


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    limits = RateLimits(rate=1, burst=2, clock=lambda: 0.0)
    for n in range(5000):
        limits.allow(str(n))
    assert len(limits._buckets) == 1024


# --- collections ------------------------------------------------------------------------------


def application(host: Host, *arguments: str) -> Application:
    config = flags.config(flags.parse([*host.flags, *arguments])[1], host.rtnetlink)
    return Application(Gatherer(config, Log("error")), RateLimits(1000, 1000), Log("error"))


async def status(app: Application) -> int:
    """Request the metrics of an application and return the status of the response."""
    response = await app.answer(Request("127.0.0.1", "GET", "/metrics", "", b""))
    return response.status


def test_requests_during_a_collection_share_its_result(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(sysfs="none"))
    app = application(host)
    answer, resume = host.server.answer, threading.Event()

    def answer_later(request: bytes) -> bytes:
        resume.wait(10)
        return answer(request)

    async def twenty_and_one() -> tuple[list[int], int]:
        clients = [asyncio.ensure_future(status(app)) for _ in range(20)]
        await asyncio.sleep(0.1)
        resume.set()
        return await asyncio.gather(*clients), await status(app)

    host.server.answer = answer_later  # type: ignore[method-assign]
    assert asyncio.run(twenty_and_one()) == ([200] * 20, 200)
    assert host.server.requests == {"ens1f0": 2}


def test_hung_sysfs_is_503_and_requests_do_not_pile_up(
    make_host: MakeHost, hanging_sysfs: threading.Event
) -> None:
    app = application(make_host(SimulatedPf()), "--timeout=200ms")

    async def many() -> list[int]:
        first = await status(app)
        threads = len(os.listdir("/proc/self/task"))
        others = [await status(app) for _ in range(20)]
        assert len(os.listdir("/proc/self/task")) <= threads
        return [first, *others]

    assert asyncio.run(many()) == [503] * 21


def test_an_answer_that_cannot_be_sent_is_logged_and_the_connection_closed(
    make_host: MakeHost, capfd: pytest.CaptureFixture[str]
) -> None:
    app = application(make_host(SimulatedPf()))

    async def answer(request: Request) -> Response:
        return Response(200, b"", ("X-Line", "ends\n"))

    async def first_bytes() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = connections.Server(app, Log("error"))
            accepting = asyncio.ensure_future(server.accept(listener))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                return await asyncio.wait_for(reader.read(100), 10)
            finally:
                writer.close()
                accepting.cancel()

    app.answer = answer  # type: ignore[method-assign]
    assert asyncio.run(first_bytes()) == b""
    assert "cannot send an answer" in capfd.readouterr().err


def test_a_connection_that_is_closed_as_soon_as_it_is_accepted_causes_no_error(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address has too many connections, and the other one is being answered."""
    monkeypatch.setattr(connections, "_CONNECTIONS_OF_ADDRESS", 2)
    app = application(make_host(SimulatedPf()))
    server = connections.Server(app, Log("error"))
    errors: list[object] = []

    async def six_clients() -> None:
        asked, resume = asyncio.Event(), asyncio.Event()

        async def answer(request: Request) -> Response:
            asked.set()
            await resume.wait()
            return Response(200, b"")

        app.answer = answer  # type: ignore[method-assign]
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = asyncio.ensure_future(server.accept(listener))
            first, first_writer = await asyncio.open_connection(*listener.getsockname())
            first_writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.wait_for(asked.wait(), 10)
            # Without a pause: the server accepts them one right after the other.
            clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
            for client in clients[:-1]:
                client.settimeout(10)
                assert await asyncio.to_thread(client.recv, 1) == b""
            resume.set()
            assert await asyncio.wait_for(first.read(12), 10) == b"HTTP/1.1 200"
            for client in clients:
                client.close()
            first_writer.close()
            while server._connections:
                await asyncio.sleep(0.01)
            accepting.cancel()

    asyncio.run(asyncio.wait_for(six_clients(), 20))
    assert errors == []


# --- listen addresses ---------------------------------------------------------------------------


def _has_ipv6() -> bool:
    """Whether the loopback device has an IPv6 address; in many containers it has none."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


HAS_IPV6 = _has_ipv6()


def test_an_address_without_host_listens_on_ipv4_and_ipv6(serve: Callable[..., Server]) -> None:
    server = serve(address=":0")
    assert server.request("GET", "/metrics")[0] == 200
    if HAS_IPV6:
        with socket.create_connection(("::1", server.port), timeout=10) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.skipif(not HAS_IPV6, reason="this host has no IPv6")
def test_an_ipv6_address_listens_on_ipv6(serve: Callable[..., Server]) -> None:
    server = serve(address="[::1]:0")
    with socket.create_connection(("::1", server.port), timeout=10) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def failed_start(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sriov_textfile", "serve", f"--web.listen-address={address}"]
    env = {**os.environ, "RES_OPTIONS": "timeout:1 attempts:1"}  # of the resolver
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=env)


def test_a_port_in_use_exits_1_with_a_one_line_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = failed_start(address)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert (
        f"cannot listen on {address}: Address already in use;"
        " choose another --web.listen-address" in done.stderr
    )


@pytest.mark.parametrize("address", ["192.0.2.1:9808", "no.such.host.invalid:9808"])
def test_an_address_of_another_host_exits_1_with_a_one_line_message(address: str) -> None:
    done = failed_start(address)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot listen on {address}: " in done.stderr


def test_serve_accepts_the_arguments_of_the_go_exporters_daemonset(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    server = Server(
        f"--path.kubecgroup={tmp_path}/kubecgroup",
        f"--path.sysbuspci={host.bus}",
        f"--path.sysclassnet={host.net}",
        f"--path.cpucheckpoint={tmp_path}/cpu_manager_state",
        f"--path.kubeletsocket={tmp_path}/kubelet.sock",
        "--collector.kubepoddevice=true",
        "--collector.vfstatspriority=sysfs,netlink",
        "--web.listen-address=127.0.0.1:0",
    )
    try:
        text = server.request("GET", "/metrics")[2].decode()
    finally:
        server.stop()
    assert 'pf="ens1f0",vf="1"} 1003\n' in text
    assert 'sriov_scrape_collector_success{collector="kubepoddevice"} 0\n' in text


def test_a_host_that_is_not_utf_8_is_one_line_and_exit_1() -> None:
    command = [sys.executable.encode(), b"-m", b"sriov_textfile", b"serve"]
    command.append(b"--web.listen-address=\xff\xfe:9808")
    done = subprocess.run(command, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert b"cannot listen on " in done.stderr


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_exit_0(
    serve: Callable[..., Server], stop: signal.Signals
) -> None:
    server = serve()
    server.request("GET", "/metrics")
    server.process.send_signal(stop)
    _, log = server.process.communicate(timeout=10)
    assert (server.process.returncode, log) == (0, "")

"""Abusive HTTP clients on loopback must not keep the server from answering normal scrapes."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.conftest import background
from tests.test_http import Server, serve
from tests.test_web_config import TLS, Authority

__all__ = ["serve"]  # a fixture


ATTACKER = "127.0.0.2"


class Abuse:
    """Scrapes a server that is under abuse. Scrapes must be answered within two seconds.

    On a busy machine, one of them may take longer. A client that starves others delays them all.
    """

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        self.server = server
        self._tls = tls
        self.seconds: list[float] = []
        self.statuses: set[int] = set()

    def scrape(self, times: int, pause: float = 0.2) -> None:
        for _ in range(times):
            start = time.monotonic()
            self.statuses.add(self._status())
            self.seconds.append(time.monotonic() - start)
            time.sleep(pause)

    @property
    def slowest(self) -> float:
        return max(self.seconds)

    def _status(self) -> int:
        if self._tls:
            return self.server.scrape_over(self._tls)
        return self.server.request("GET", "/metrics")[0]

    def connect(self) -> socket.socket:
        """Return a connection from another address than that of the scrapes, without TLS."""
        address = ("127.0.0.1", self.server.port)
        return socket.create_connection(address, timeout=20, source_address=(ATTACKER, 0))

    def connect_to_send(self) -> socket.socket:
        """Return a connection for requests, with TLS if the server has it."""
        client = self.connect()
        return self._tls.wrap_socket(client, server_hostname="127.0.0.1") if self._tls else client

    def assert_survived(self, statuses: set[int]) -> None:
        assert self.server.process.poll() is None
        assert self.statuses <= statuses
        assert sorted(self.seconds)[-2] < 2
        assert self.server.resident_mib < 100


def secured(folder: Path) -> tuple[list[str], ssl.SSLContext]:
    """Return the flags of a server with TLS, and the settings of its clients."""
    path = folder / "web.yml"
    path.write_text(TLS)
    return [f"--web.config.file={path}"], Authority(folder).context()


@contextlib.contextmanager
def repeating(attack: Callable[[], object], pause: float) -> Iterator[None]:
    """Attack again and again, in a thread; the server may refuse."""

    def repeat(over: threading.Event) -> None:
        while not over.wait(pause):
            with contextlib.suppress(OSError):
                attack()

    with background(repeat):
        yield


@contextlib.contextmanager
def twenty_requests_a_second(abuse: Abuse) -> Iterator[None]:
    """Ask for a page that does not exist."""

    def ask() -> None:
        with abuse.connect_to_send() as client:
            client.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            client.recv(1000)

    with repeating(ask, pause=0.05):
        yield


@contextlib.contextmanager
def open_connections(abuse: Abuse, count: int, request: bytes) -> Iterator[None]:
    """Keep connections open, and open those again that the server closes."""
    clients: list[socket.socket] = []

    def connect() -> None:
        if len(clients) >= count:
            clients.pop(0).close()
        client = abuse.connect_to_send() if request else abuse.connect()
        clients.append(client)
        client.sendall(request)

    try:
        with repeating(connect, pause=0.001):
            yield
    finally:
        for client in clients:
            client.close()


IDLE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
ATTACKS: dict[str, Callable[[Abuse], contextlib.AbstractContextManager[None]]] = {
    "20 requests a second for another page": twenty_requests_a_second,
    "1000 connections that idle after a request": lambda abuse: open_connections(abuse, 1000, IDLE),
    "5000 silent connections": lambda abuse: open_connections(abuse, 5000, b""),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("names", [[name] for name in ATTACKS] + [list(ATTACKS)], ids=" and ".join)
def test_prometheus_is_served_while_another_address_attacks(
    serve: Callable[..., Server], tmp_path: Path, names: list[str], scheme: str
) -> None:
    arguments, tls = secured(tmp_path) if scheme == "https" else ([], None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        server = serve(*arguments)  # with the rate limit that it has by default
        abuse = Abuse(server, tls)
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(ATTACKS[name](abuse))
            time.sleep(2)
            abuse.scrape(5, pause=3)
        print(f"{scheme}, {' and '.join(names)}: slowest scrape {abuse.slowest:.3f} s")
        abuse.assert_survived({200})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect_and_close(port: int) -> None:
    end = time.monotonic() + 6
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            # Not the address of other attacks: its ports are used up for a minute.
            socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0)).close()


def test_a_flood_of_connections_leaves_prometheus_its_turn(serve: Callable[..., Server]) -> None:
    server = serve()
    abuse = Abuse(server)
    clients = [
        multiprocessing.get_context("fork").Process(target=connect_and_close, args=(server.port,))
        for _ in range(2)
    ]
    for client in clients:
        client.start()
    abuse.scrape(5, pause=1)
    for client in clients:
        client.join()
    print(f"slowest scrape {abuse.slowest:.3f} s, {server.resident_mib:.0f} MiB")
    abuse.assert_survived({200})


def test_a_client_that_never_reads_its_answers_costs_no_memory(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    abuse = Abuse(server)
    before = server.resident_mib
    with abuse.connect() as client:
        client.setblocking(False)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                client.send(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            time.sleep(0.001)
        abuse.scrape(2)
    assert server.resident_mib < before + 5
    abuse.assert_survived({200})


def test_idle_tls_connections_of_many_addresses_cost_little_memory(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    arguments, tls = secured(tmp_path)
    server = serve(*arguments)
    abuse = Abuse(server, tls)
    with contextlib.ExitStack() as stack:
        for number in range(600):
            address = ("127.0.0.1", server.port)
            source = (f"127.0.1.{number % 30 + 1}", 0)
            client = socket.create_connection(address, timeout=20, source_address=source)
            stack.enter_context(tls.wrap_socket(client, server_hostname="127.0.0.1"))
        abuse.scrape(2)
        print(f"{server.resident_mib:.0f} MiB")
        abuse.assert_survived({200})


def test_a_client_with_the_address_of_prometheus_can_be_silent(
    serve: Callable[..., Server],
) -> None:
    """As behind a proxy: of one address, the connection that was idle longest makes room."""
    server = serve()
    abuse = Abuse(server)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(server.connect())
        abuse.scrape(3, pause=1)
    abuse.assert_survived({200})


def test_a_server_without_file_descriptors_recovers(serve: Callable[..., Server]) -> None:
    server = serve()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (24, 24))
    abuse = Abuse(server)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            with contextlib.suppress(OSError):
                stack.enter_context(abuse.connect())
        abuse.scrape(2, pause=1)
    abuse.scrape(2)
    abuse.assert_survived({200, 503})


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_two_hundred_clients_that_send_one_byte_per_second(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=100")
    abuse = Abuse(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(200)]
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: so slow"
        for second in range(14):
            for client in clients:
                with contextlib.suppress(ConnectionError):  # closed after 5 s
                    client.send(request[second : second + 1])
            abuse.scrape(5)
        assert [client for client in clients if not is_closed(client)] == []
    abuse.assert_survived({200})


def test_clients_that_send_nothing_or_half_a_request(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=100")
    abuse = Abuse(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients[:50]:
            client.sendall(b"GET /metrics HT")
        end = time.monotonic() + 25
        while time.monotonic() < end and not all(is_closed(client) for client in clients):
            abuse.scrape(5)
        assert [client for client in clients if not is_closed(client)] == []
    abuse.assert_survived({200})


def test_a_thousand_simultaneous_requests(serve: Callable[..., Server]) -> None:
    """An address that opens more connections than it may have loses the oldest of them."""
    server = serve()
    abuse = Abuse(server)
    statuses: list[bytes] = []

    def many(count: int) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(abuse.connect()) for _ in range(count)]
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                    statuses.append(client.recv(13)[9:12])

    threads = [threading.Thread(target=many, args=(250,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    abuse.scrape(10)
    for thread in threads:
        thread.join()
    assert set(statuses) - {b""} == {b"200", b"429"}
    abuse.assert_survived({200})


def test_headers_of_one_megabyte(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=100")
    abuse = Abuse(server)
    for _ in range(20):
        with server.connect() as client, contextlib.suppress(ConnectionError):
            client.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X-Long: " + b"a" * (1 << 20))
            assert client.recv(100).split(b" ")[1] == b"431"
    abuse.scrape(5)
    abuse.assert_survived({200})


def test_requests_that_never_end(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=100")
    abuse = Abuse(server)
    for end in (b"\r\nX: y", b"\r\n\r", b" HTTP/1.1\r\nA: b\r\n"):
        with server.connect() as client, contextlib.suppress(OSError):
            client.sendall(b"GET /metrics" + end)
            for _ in range(300):
                client.sendall(b"a: b\r\n" * 100)
    abuse.scrape(5)
    abuse.assert_survived({200})


def test_random_bytes(serve: Callable[..., Server]) -> None:
    server = serve("--web.rate-limit=1000", "--web.rate-burst=1000")
    abuse = Abuse(server)
    for seed in range(300):
        noise = random.Random(seed).randbytes(random.Random(seed).randint(1, 3000))
        with server.connect() as client, contextlib.suppress(OSError):
            client.sendall(noise + (b"\r\n\r\n" if seed % 2 else b""))
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(65536)
            assert answer == b"" or answer.startswith(b"HTTP/1.")
    abuse.scrape(5)
    abuse.assert_survived({200})
    assert "Traceback" not in server.log

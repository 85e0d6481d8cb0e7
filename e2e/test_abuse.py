"""Abusive HTTP clients on loopback must not keep the server from answering normal scrapes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

from tests.test_http import Server, serve

__all__ = ["serve"]  # a fixture


class Abuse:
    """Scrapes a server that is under abuse. Each scrape must be answered within two seconds."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.slowest = 0.0
        self.statuses: set[int] = set()

    def scrape(self, times: int) -> None:
        for _ in range(times):
            start = time.monotonic()
            self.statuses.add(self.server.request("GET", "/metrics")[0])
            self.slowest = max(self.slowest, time.monotonic() - start)
            time.sleep(0.2)

    def assert_survived(self, statuses: set[int]) -> None:
        assert self.server.process.poll() is None
        assert self.statuses <= statuses
        assert self.slowest < 2
        assert self.server.resident_mib < 100


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
                with contextlib.suppress(ConnectionError):  # closed after 10 s
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
    server = serve()
    abuse = Abuse(server)
    statuses: list[bytes] = []

    def many(count: int) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(count)]
            for client in clients:
                client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            for client in clients:
                statuses.append(client.recv(13)[9:12])
                while client.recv(65536):
                    pass

    threads = [threading.Thread(target=many, args=(250,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    abuse.scrape(10)
    for thread in threads:
        thread.join()
    assert len(statuses) == 1000
    assert set(statuses) == {b"200", b"429"}
    abuse.assert_survived({200, 429})


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

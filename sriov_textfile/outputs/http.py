"""Metrics over HTTP: GET /metrics and nothing else, whatever other clients do.

asyncio accepts connections, h11 parses requests, and Werkzeug parses Accept-Encoding. This module
has the answers, and the limits that keep one client from shutting out another.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import resource
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import h11
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from sriov_textfile import exposition
from sriov_textfile.config import Config
from sriov_textfile.gather import Gatherer, GatherError
from sriov_textfile.log import Log

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A scrape needs one connection and a few hundred bytes; the limits are against other clients.
_CONNECTIONS = 512  # and at most half of the files that this process may open
_CONNECTIONS_OF_ADDRESS = 64
_ADDRESSES = 1024  # whose rate is remembered
_TOTAL_RATE = 10  # times the rate of one address
_HEADER_BYTES = 16384
_FIRST_REQUEST_SECONDS = 5.0  # from the connection to the end of the request
_NEXT_REQUEST_SECONDS = 30.0  # from one request to the end of the next, answer included
_LOG_SECONDS = 60.0  # between two lines about clients


class ListenError(Exception):
    """Raised when the address cannot be listened on; says which, why and what to do."""


class Response:
    """Status, headers and body of an answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = [("Content-Length", str(len(body))), *headers]


_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def _error(status: int, *headers: tuple[str, str]) -> Response:
    plain = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status, f"{_REASONS[status]}\n".encode(), plain, *headers)


def serve(gatherer: Gatherer, config: Config, log: Log, started: Callable[[str], object]) -> None:
    """Answer requests until SIGTERM or SIGINT. Raises ListenError.

    `started` is called with the address as soon as connections are accepted.
    """
    host, port = config.listen_address
    listener = _listen(host, port)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    started(_address(host, listener.getsockname()[1]))
    app = Application(gatherer, RateLimits(config.rate_limit, config.rate_burst), log)
    loop = asyncio.new_event_loop()
    server = Server(app, listener, log)
    loop.set_exception_handler(lambda loop, context: server.log_rarely(_unexpected(context)))
    serving = loop.create_task(server.accept())
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, serving.cancel)
    try:
        loop.run_until_complete(serving)
    except asyncio.CancelledError:
        pass  # Nothing is waited for: a collection may hang.


def _unexpected(context: dict[str, Any]) -> str:
    return f"unexpected error of the HTTP server: {context.get('exception', context['message'])!r}"


class Application:
    """Answers requests, with the checks of the Go exporter."""

    def __init__(self, gatherer: Gatherer, rates: RateLimits, log: Log) -> None:
        self._gatherer = gatherer
        self._rates = rates
        self._log = log
        self._collection: asyncio.Future[bytes] | None = None
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = Counter(
            "promhttp_metric_handler_requests",  # the name in Go's handler; _total is appended
            "Requests, by the status of the answer.",
            ["code"],
            registry=self._registry,
        )

    def count(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._requests.labels(str(status)).inc()

    async def answer(self, client: str, method: str, target: str, encodings: str) -> Response:
        """Return the answer to a request: client address, method, target, Accept-Encoding."""
        try:
            path = urlsplit(target).path
        except ValueError:
            return _error(400)
        if path != "/metrics":
            return _error(404) if method == "GET" else _error(405, ("Allow", "GET"))
        if not self._rates.allow(client):
            return _error(429)
        if method != "GET":
            return _error(405, ("Allow", "GET"))
        try:
            page = await self._collect()
        except GatherError as error:
            self._log.problems("delivery", {"error": [error.problem]})
            return _error(503)
        self._log.problems("delivery", {})
        page += generate_latest(self._registry)
        headers = [("Content-Type", CONTENT_TYPE), ("Vary", "Accept-Encoding")]
        if _accepts_gzip(encodings):
            headers.append(("Content-Encoding", "gzip"))
            page = gzip.compress(page, 1)
        return Response(200, page, *headers)

    async def _collect(self) -> bytes:
        """Return the page of the collection that is running, or else of a new one."""
        if self._collection is None:
            loop = asyncio.get_running_loop()
            self._collection = loop.run_in_executor(self._worker, self._page)
            self._collection.add_done_callback(self._forget)
        return await asyncio.shield(self._collection)

    def _page(self) -> bytes:
        return exposition.render(self._gatherer.gather())

    def _forget(self, collection: asyncio.Future[bytes]) -> None:
        self._collection = None
        if not collection.cancelled():
            collection.exception()  # It was raised where the page was awaited, if anywhere.


def _accepts_gzip(header: str) -> bool:
    """Return whether an Accept-Encoding prefers gzip to no encoding (RFC 9110, 12.5.3)."""
    accepted = parse_accept_header(header, Accept)
    quality = accepted.quality("gzip")
    return quality > 0 and quality >= accepted.quality("identity")


class TokenBucket:
    """Allows `rate` requests a second, and `burst` at once after a pause."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self) -> bool:
        """Return whether a request is allowed now."""
        now = self._clock()
        self._tokens += (now - self._filled) * self._rate
        self._tokens = min(self._tokens, self._burst)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class RateLimits:
    """A token bucket for each client address, and one for all that no single one can empty."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._total = TokenBucket(rate * _TOTAL_RATE, burst * _TOTAL_RATE, clock)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allow(self, address: str) -> bool:
        """Return whether a client may scrape now."""
        bucket = self._buckets.pop(address, None)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst, self._clock)
        self._buckets[address] = bucket  # the last one used
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket.take() and self._total.take()


class Server:
    """Accepts connections; where there are too many, the one that was idle longest is closed."""

    def __init__(self, app: Application, listener: socket.socket, log: Log) -> None:
        self.app = app
        self._listener = listener
        self._log = log
        self._logged = -_LOG_SECONDS
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(min(_CONNECTIONS, files // 2), 1)
        # The least recently active connection first.
        self._connections: OrderedDict[Connection, None] = OrderedDict()
        self._of_address: dict[str, OrderedDict[Connection, None]] = {}

    async def accept(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            try:
                client, address = await loop.sock_accept(self._listener)
            except OSError as error:  # No file descriptor is left, or the client has gone.
                self.log_rarely(f"cannot accept a connection: {error.strerror}")
                self._make_room(self._connections)
                await asyncio.sleep(0.05)
                continue
            connection = Connection(self, client, str(address[0]))
            self._add(connection)
            connection.start(loop)
            await asyncio.sleep(0)  # A flood of connections must not keep others from their turn.

    def log_rarely(self, message: str) -> None:
        """Log what a client causes, at most once a minute."""
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self._log.error(message)

    def active(self, connection: Connection) -> None:
        """Note that a connection sent a request."""
        self._connections.move_to_end(connection)
        self._of_address[connection.address].move_to_end(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection in self._connections:
            del self._connections[connection]
            siblings = self._of_address[connection.address]
            del siblings[connection]
            if not siblings:
                del self._of_address[connection.address]

    def _add(self, connection: Connection) -> None:
        siblings = self._of_address.setdefault(connection.address, OrderedDict())
        if len(siblings) >= _CONNECTIONS_OF_ADDRESS:
            self._make_room(siblings)
        if len(self._connections) >= self._most:
            self._make_room(self._connections)
        # _make_room may have removed the last connection of the address.
        siblings = self._of_address.setdefault(connection.address, OrderedDict())
        self._connections[connection] = siblings[connection] = None

    def _make_room(self, connections: OrderedDict[Connection, None]) -> None:
        """Close the connection that has been idle longest, or else the oldest."""
        idle = (connection for connection in connections if not connection.answering)
        victim = next(idle, None) or next(iter(connections), None)
        if victim:
            victim.abort()


class Connection(asyncio.Protocol):
    """One connection: reads a request, answers it, and waits for the next one."""

    def __init__(self, server: Server, client: socket.socket, address: str) -> None:
        self.address = address
        self.answering = False
        self._blocked = False  # whether the client does not read its answers
        self._server = server
        self._client = client
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve the accepted socket."""
        self._set_timer(_FIRST_REQUEST_SECONDS)
        self._task = loop.create_task(self._connect(loop))

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.connect_accepted_socket(lambda: self, self._client)
        except OSError:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._server.remove(self)
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()
        elif self._task:
            self._task.cancel()
            self._client.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection; asyncio calls this."""
        self._server.remove(self)
        if self._timer:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Take no further request until the client has read its answers; asyncio calls this."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Take the next request; asyncio calls this."""
        self._blocked = False
        if not self.answering:
            self._continue()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent; asyncio calls this."""
        if self._http.our_state is h11.ERROR:
            return
        try:
            self._http.receive_data(data)
            self._next_request()
        except h11.RemoteProtocolError as error:
            self._malformed(str(error), error.error_status_hint)

    def eof_received(self) -> bool:
        """Keep the connection half open until the answer is sent; asyncio calls this."""
        return self.answering

    def _next_request(self) -> None:
        """Start to answer the next request, if it is complete."""
        event = self._http.next_event()
        if not isinstance(event, h11.Request):
            return
        headers = dict(event.headers)
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            self._malformed("it has a body", 400, with_body=event.method != b"HEAD")
            return
        self._http.next_event()  # the end of the request, which has no body
        assert self._transport
        self.answering = True
        self._server.active(self)
        self._set_timer(None)
        self._transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._answer(event))

    async def _answer(self, request: h11.Request) -> None:
        encodings = b",".join([v for n, v in request.headers if n == b"accept-encoding"])
        try:
            response = await self._server.app.answer(
                self.address,
                request.method.decode("ascii"),
                request.target.decode("ascii", "replace"),
                encodings.decode("latin-1"),
            )
        except Exception as error:
            self._server.log_rarely(f"cannot answer a request: {type(error).__name__}: {error}")
            response = _error(500)
        self.answering = False
        self._set_timer(_NEXT_REQUEST_SECONDS)
        assert self._transport
        if self._transport.is_closing():
            return
        self._send(response, with_body=request.method != b"HEAD")
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._transport.close()
            return
        self._http.start_next_cycle()
        if not self._blocked:
            self._continue()

    def _continue(self) -> None:
        """Read on, beginning with what has arrived together with the last request."""
        assert self._transport
        if self._transport.is_closing():
            return
        self._transport.resume_reading()
        try:
            self._next_request()
        except h11.RemoteProtocolError as error:
            self._malformed(str(error), error.error_status_hint)

    def _malformed(self, reason: str, status: int, with_body: bool = True) -> None:
        """Answer a request that cannot be accepted, and close the connection."""
        self._server.log_rarely(f"malformed request from {self.address}: {reason}")
        assert self._transport
        answer = _error(status if status in _REASONS else 400, ("Connection", "close"))
        self._send(answer, with_body)
        self._transport.close()

    def _send(self, response: Response, with_body: bool = True) -> None:
        self._server.app.count(response.status)
        start = h11.Response(
            status_code=response.status,
            reason=_REASONS[response.status],
            headers=[(name.encode(), value.encode()) for name, value in response.headers],
        )
        parts = [self._http.send(start)]
        if with_body:
            parts.append(self._http.send(h11.Data(data=response.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        assert self._transport
        self._transport.write(b"".join([part for part in parts if part]))

    def _set_timer(self, seconds: float | None) -> None:
        """Close the connection after some seconds, unless the timer is set again."""
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self.abort)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; an empty host means all addresses, IPv4 and IPv6."""
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except (OSError, TypeError, UnicodeError) as error:  # TypeError for a host that is not UTF-8
        reason = str(error)
        if isinstance(error, OSError) and error.errno and error.errno > 0:
            reason = os.strerror(error.errno)
        raise ListenError(
            f"cannot listen on {_address(host, port)}: {reason};"
            " choose another --web.listen-address"
        ) from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

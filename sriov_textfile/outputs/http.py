"""Metrics over HTTP: GET /metrics and nothing else, at a limited rate.

waitress is the server; this module has the responses and the limits.
"""

from __future__ import annotations

import gzip
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask

from sriov_textfile import exposition
from sriov_textfile.config import Config
from sriov_textfile.gather import Gatherer, GatherError
from sriov_textfile.log import Log

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A scrape needs one connection and a few hundred bytes. The limits stop abusive clients.
_CONNECTIONS = 900  # below the 1024 open files that a process may have by default
_HEADER_BYTES = 16384
_REQUEST_SECONDS = 10  # until a request has arrived completely
_IDLE_SECONDS = 120  # until a connection without requests is closed

Answer = tuple[str, list[tuple[str, str]], bytes]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class ListenError(Exception):
    """Raised if the server cannot listen; the message is address, reason and what to do."""


def serve(gatherer: Gatherer, config: Config, log: Log, started: Callable[[str], object]) -> None:
    """Answer requests until SIGTERM or SIGINT. Raises ListenError.

    `started` is called with the address as soon as connections are accepted.
    """
    host, port = config.listen_address
    listener = _listen(host, port)
    _log_waitress_errors(log)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    app = Application(gatherer, TokenBucket(config.rate_limit, config.rate_burst), log)
    server = create_server(
        app,
        sockets=[listener],
        connection_limit=_CONNECTIONS,
        asyncore_use_poll=True,
        max_request_header_size=_HEADER_BYTES,
        channel_timeout=_IDLE_SECONDS,
        cleanup_interval=5,
        log_socket_errors=False,
        ident=None,
    )
    server.channel_class = _Channel
    waitress_maintenance = server.maintenance

    def maintenance(now: float) -> None:
        waitress_maintenance(now)
        for channel in server.active_channels.values():
            channel.will_close |= channel.is_late()

    server.maintenance = maintenance  # called every cleanup_interval
    signal.signal(signal.SIGTERM, _exit)
    started(_address(host, listener.getsockname()[1]))
    server.run()  # returns on SystemExit and KeyboardInterrupt


class Application:
    """The WSGI application: checks requests as the Go exporter does, in the same order."""

    def __init__(self, gatherer: Gatherer, bucket: TokenBucket, log: Log) -> None:
        self._gatherer = gatherer
        self._bucket = bucket
        self._log = log
        self._lock = threading.Lock()
        self._collection: Future[bytes] | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = Counter(
            "promhttp_metric_handler_requests",  # as in Go; the client library adds _total
            "Requests, by the status of the answer.",
            ["code"],
            registry=self._registry,
        )

    def __call__(self, environ: dict[str, str], start_response: StartResponse) -> list[bytes]:
        """Answer one request."""
        status, headers, body = self._answer(environ)
        self._requests.labels(status[:3]).inc()
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, environ: dict[str, str]) -> Answer:
        if not self._bucket.take():
            return _refusal("429 Too Many Requests")
        if environ["REQUEST_METHOD"] != "GET":
            return _refusal("405 Method Not Allowed", ("Allow", "GET"))
        if environ["PATH_INFO"] != "/metrics":
            return _refusal("404 Not Found")
        try:
            page = self._collect() + generate_latest(self._registry)
        except GatherError as error:
            self._log.problems("delivery", {"error": [error.problem]})
            return _refusal("503 Service Unavailable")
        self._log.problems("delivery", {})
        headers = [("Content-Type", CONTENT_TYPE), ("Vary", "Accept-Encoding")]
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            return "200 OK", [*headers, ("Content-Encoding", "gzip")], gzip.compress(page, 1)
        return "200 OK", headers, page

    def _collect(self) -> bytes:
        """Return the page of the running collection, or of a new one if none is running."""
        with self._lock:
            collection = self._collection
            new = collection is None
            if collection is None:
                collection = self._collection = Future()
        if new:
            try:
                collection.set_result(exposition.render(self._gatherer.gather()))
            except BaseException as error:
                collection.set_exception(error)
            finally:
                self._collection = None
        return collection.result()


class TokenBucket:
    """Allows `rate` requests a second, and `burst` at once after a pause."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Return whether a request is allowed now."""
        with self._lock:
            now = self._clock()
            self._tokens += (now - self._filled) * self._rate
            self._tokens = min(self._tokens, self._burst)
            self._filled = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Refuses a request with a body once its headers are read, before the body."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.body_rcv is not None:
            raise ParsingError("a scrape has no body")


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers a malformed request with one line."""

    def execute(self) -> None:
        error = self.request.error
        status, headers, body = _refusal(f"{error.code} {error.reason}")
        self.status = status
        self.response_headers.extend(headers)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """Closes a connection on which no complete request arrives in time.

    waitress itself closes only idle connections, and a client that sends a byte a second is
    never idle.
    """

    parser_class = _Parser
    error_task_class = _ErrorTask

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)
        self._began = time.monotonic()
        self._first = True  # whether no request has arrived yet

    def received(self, data: bytes) -> object:
        if self.request is None and not self._first:
            self._began = time.monotonic()
        self.will_close |= self.is_late()
        result = super().received(data)
        self._first &= not self.requests
        return result

    def is_late(self) -> bool:
        """Return whether a request is overdue: one that has begun to arrive, or the first."""
        waiting = self._first or self.request is not None
        return waiting and time.monotonic() - self._began > _REQUEST_SECONDS


class _ToLog(logging.Handler):
    """Forwards a library's messages from the standard library's logging to our log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        self._log.error(record.getMessage(), logger=record.name)


def _log_waitress_errors(log: Log) -> None:
    logger = logging.getLogger("waitress")
    logger.setLevel(logging.ERROR)  # Warnings are about queues, which the rate limit bounds.
    logger.addHandler(_ToLog(log))
    logger.propagate = False


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; an empty host means all addresses, IPv4 and IPv6."""
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ListenError(
            f"cannot listen on {_address(host, port)}: {reason};"
            " choose another --web.listen-address"
        ) from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(status: str, *headers: tuple[str, str]) -> Answer:
    plain = ("Content-Type", "text/plain; charset=utf-8")
    return status, [plain, *headers], f"{status[4:]}\n".encode()


def _exit(*_unused: object) -> None:
    raise SystemExit(0)

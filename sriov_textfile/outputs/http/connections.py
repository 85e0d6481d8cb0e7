"""Accepts connections and reads requests, with limits that no single client can use up."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
import ssl
import time
from collections import OrderedDict
from typing import Any

import h11

from sriov_textfile.log import Log
from sriov_textfile.outputs.http.application import Application
from sriov_textfile.outputs.http.messages import REASONS, Request, Response, error_response
from sriov_textfile.problems import ProblemError

# A scrape needs one connection and a few hundred bytes; the limits are against other clients.
_CONNECTIONS = 512  # and at most half of the files that this process may open
_CONNECTIONS_OF_ADDRESS = 64
_TLS_SHARE = 4  # fewer connections with TLS: asyncio takes 256 KiB for each
_HEADER_BYTES = 16384
_FIRST_REQUEST_SECONDS = 5.0  # from the connection to the end of the request, handshake included
_NEXT_REQUEST_SECONDS = 30.0  # from one request to the end of the next, answer included
_LOG_SECONDS = 60.0  # between two lines about clients


class RefusedError(Exception):
    """Raised when a client may not connect."""


class Server:
    """Accepts connections; where there are too many, the one that was idle longest is closed."""

    def __init__(self, app: Application, log: Log, tls: bool = False) -> None:
        self.app = app
        self.tls = tls
        self._log = log
        self._logged = -_LOG_SECONDS
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        share = _TLS_SHARE if tls else 1
        self._most = max(min(_CONNECTIONS // share, files // 2), 1)
        self._most_of_address = _CONNECTIONS_OF_ADDRESS // share
        # The least recently active connection first.
        self._connections: OrderedDict[Connection, None] = OrderedDict()
        self._of_address: dict[str, OrderedDict[Connection, None]] = {}

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:  # No file descriptor is left, or the client has gone.
                self.log_rarely(f"cannot accept a connection: {error.strerror}")
                # For several at once: others wait to be accepted, and each round takes time.
                for _ in range(len(self._connections) // 4 + 1):
                    self._make_room(self._connections)
                await asyncio.sleep(0.05)
                continue
            connection = Connection(self, client, _client(address))
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
        if len(siblings) >= self._most_of_address:
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
        self._open = False  # whether requests are read: after the TLS handshake, if there is one
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
            if self._server.tls:
                await self._start_tls(loop)
        except ProblemError:  # The application has logged it.
            self.abort()
        except (ssl.SSLError, RefusedError) as error:
            reason = getattr(error, "reason", None) or str(error)
            self._server.log_rarely(f"no TLS connection with {self.address}: {reason}")
            self.abort()
        except OSError:  # The client has gone, as a probe of the port does.
            self.abort()
        else:
            self._open = True
            self._continue()

    async def _start_tls(self, loop: asyncio.AbstractEventLoop) -> None:
        """Shake hands; raises OSError, RefusedError, ProblemError."""
        web = self._server.app.web_config()
        if web is None or web.tls is None:
            raise RefusedError("the web configuration no longer has a certificate")
        assert self._transport
        transport = await loop.start_tls(
            self._transport,
            self,
            web.tls,
            server_side=True,
            ssl_handshake_timeout=_FIRST_REQUEST_SECONDS,
        )
        if transport is None or self._transport.is_closing():
            raise ConnectionAbortedError
        self._transport = transport
        if not web.allows(transport.get_extra_info("peercert")):
            raise RefusedError("its certificate has none of client_allowed_sans")

    def abort(self) -> None:
        """Close the connection at once."""
        self._server.remove(self)
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()
        elif self._task:
            self._task.cancel()
            # Not now: asyncio may already have scheduled to read from its file descriptor.
            self._task.add_done_callback(lambda _: self._client.close())

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
            if self._open:
                self._next_request()
        except h11.RemoteProtocolError as error:
            self._malformed(str(error), error.error_status_hint)

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
        try:
            response = await self._server.app.answer(_request(self.address, request))
        except Exception as error:
            self._server.log_rarely(f"cannot answer a request: {type(error).__name__}: {error}")
            response = error_response(500)
        self.answering = False
        self._set_timer(_NEXT_REQUEST_SECONDS)
        assert self._transport
        if self._transport.is_closing():
            return
        try:
            self._send(response, with_body=request.method != b"HEAD")
        except h11.LocalProtocolError as error:
            self._server.log_rarely(f"cannot send an answer: {error}")
            self.abort()
            return
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
        answer = error_response(status if status in REASONS else 400, ("Connection", "close"))
        self._send(answer, with_body)
        self._transport.close()

    def _send(self, response: Response, with_body: bool = True) -> None:
        self._server.app.count(response.status)
        start = h11.Response(
            status_code=response.status,
            reason=REASONS[response.status],
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


def _request(client: str, request: h11.Request) -> Request:
    encodings = b",".join([value for name, value in request.headers if name == b"accept-encoding"])
    authorization = [value for name, value in request.headers if name == b"authorization"]
    return Request(
        client,
        request.method.decode("ascii"),
        request.target.decode("ascii", "replace"),
        encodings.decode("latin-1"),
        authorization[0] if authorization else b"",
    )


def _client(address: Any) -> str:
    """Return what a client's limits are for: its IPv4 address, or its IPv6 network of 64 bits.

    A host may use any address of its network. `address` is that of a socket: of a unix socket it is
    a path, or bytes if it is abstract.
    """
    if not (isinstance(address, tuple) and isinstance(address[0], str)):
        return "a local socket"
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))

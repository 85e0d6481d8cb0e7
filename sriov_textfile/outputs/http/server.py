"""Serves HTTP on --web.listen-address or on the sockets of systemd, until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from sriov_textfile.config import Config
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.outputs.http.application import Application
from sriov_textfile.outputs.http.connections import Server
from sriov_textfile.outputs.http.rate_limits import RateLimits

_FIRST_FD = 3  # of those that systemd passes: sd_listen_fds(3)


class ListenError(Exception):
    """Raised when there is nothing to listen on; says where, why and what to do."""


def serve(gatherer: Gatherer, config: Config, log: Log, started: Callable[[str], object]) -> None:
    """Answer requests until SIGTERM or SIGINT.

    `started` is called with the address once the sockets listen: clients can connect, and are
    answered after it. Raises ListenError, and ProblemError for a web configuration file that cannot
    be used.
    """
    web, tls = None, False
    if config.web_config_file:
        from sriov_textfile.outputs.http.web_config import WebConfigFile

        web = WebConfigFile(config.web_config_file)
        # As in node_exporter: switching TLS on or off takes a restart, everything else does not.
        tls = web.current().tls is not None
    listeners = _listeners(config)
    started(", ".join([_local_address(listener) for listener in listeners]))
    app = Application(gatherer, RateLimits(config.rate_limit, config.rate_burst), log, web)
    loop = asyncio.new_event_loop()
    server = Server(app, log, tls)
    loop.set_exception_handler(lambda loop, context: server.log_rarely(_unexpected(context)))
    serving = asyncio.gather(*[loop.create_task(server.accept(listener)) for listener in listeners])
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, serving.cancel)
    try:
        loop.run_until_complete(serving)
    except asyncio.CancelledError:
        pass  # Nothing is waited for: a collection may hang.


def _unexpected(context: dict[str, Any]) -> str:
    return f"unexpected error of the HTTP server: {context.get('exception', context['message'])!r}"


def _listeners(config: Config) -> list[socket.socket]:
    if config.web_systemd_socket:
        return _from_systemd()
    return [_listen(*config.listen_address)]


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


def _from_systemd() -> list[socket.socket]:
    """Return the listening sockets that systemd passes to this process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or count == "0":
        raise ListenError(
            "--web.systemd-socket: systemd passed no socket; start the service by its .socket unit"
        )
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            os.set_inheritable(fd, False)
            sockets.append(socket.socket(fileno=fd))
            listens = sockets[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = 0
        if not listens:
            raise ListenError(
                f"--web.systemd-socket: file descriptor {fd} is no listening socket;"
                " use ListenStream= and Accept=no in the .socket unit"
            )
    return sockets


def _local_address(listener: socket.socket) -> str:
    address = listener.getsockname()
    if isinstance(address, tuple) and isinstance(address[0], str):
        return _address(address[0], address[1])
    return os.fsdecode(address) if isinstance(address, bytes) else str(address)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

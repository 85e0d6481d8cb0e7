"""Serves HTTP on the address of --web.listen-address until a signal."""

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


class ListenError(Exception):
    """Raised when the address cannot be listened on; says which, why and what to do."""


def serve(gatherer: Gatherer, config: Config, log: Log, started: Callable[[str], object]) -> None:
    """Answer requests until SIGTERM or SIGINT. Raises ListenError.

    `started` is called with the address as soon as connections are accepted.
    """
    host, port = config.listen_address
    listener = _listen(host, port)
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

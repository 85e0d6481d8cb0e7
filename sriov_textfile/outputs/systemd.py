"""Notifies systemd, if it runs the program as a service of Type=notify. See sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send a state such as READY=1. Without systemd, or if it does not read, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket, see unix(7)
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as connection:
            connection.sendto(state.encode(), address)
    except OSError:
        pass


def watchdog_pause() -> float | None:
    """Return the seconds after which to send WATCHDOG=1 again, or None without a watchdog.

    It is half the time after which systemd ends the service, as sd_watchdog_enabled(3) recommends.
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() else None

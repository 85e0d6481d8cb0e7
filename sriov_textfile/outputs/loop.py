"""A collection every interval, until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import time

import schedule

from sriov_textfile.log import Log
from sriov_textfile.outputs import once, systemd
from sriov_textfile.problems import Problem


def run(delivery: once.Delivery, interval: float, log: Log) -> None:
    """Collect at once and then again `interval` seconds after each collection's end.

    A collection that cannot be delivered is logged, and the next one runs; but a standard output
    that cannot be written ends the loop, with SystemExit. So does SIGTERM or SIGINT, at once, even
    in the middle of a collection. systemd is notified
    that the service is ready after the first collection, and then of every turn of the loop.
    """
    stopped = False

    def stop(*_unused: object) -> None:
        nonlocal stopped
        stopped = True  # in case Python ignores the exception, as in a destructor
        raise SystemExit(0)

    def collect() -> None:
        undelivered: list[Problem] = []
        try:
            delivery.deliver()
        except once.OutputError as error:  # A closed standard output cannot be reopened.
            log.problems("delivery", {"error": [error.problem]})
            raise SystemExit(1) from None
        except once.DeliveryError as error:
            undelivered.append(error.problem)
        log.problems("delivery", {"error": undelivered})

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    scheduler = schedule.Scheduler()
    scheduler.every(interval).seconds.do(collect)  # type: ignore[arg-type]  # a float works too
    scheduler.run_all()
    systemd.notify("READY=1")
    longest = systemd.watchdog_pause() or interval
    while not stopped:
        systemd.notify("WATCHDOG=1")
        idle = scheduler.idle_seconds or 0.0
        if idle > interval:  # The clock was set back.
            scheduler.run_all()
        elif idle > 0:
            time.sleep(min(idle, longest))
        scheduler.run_pending()

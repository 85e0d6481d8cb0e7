"""A collection every interval, until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import time

import schedule

from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.outputs import once


def run(gatherer: Gatherer, path: str, interval: float, log: Log) -> None:
    """Collect at once and then again `interval` seconds after each collection's end.

    A collection that cannot be delivered is logged, and the next one runs. SIGTERM or SIGINT
    ends it at once, with SystemExit, whatever the program is at.
    """
    stopped = False

    def stop(*unused: object) -> None:
        nonlocal stopped
        stopped = True  # in case that the exception comes where Python ignores it
        raise SystemExit(0)

    def collect() -> None:
        try:
            once.collect(gatherer, path)
        except once.DeliveryError as error:
            log.error(str(error))
            if not path:  # A reader of standard output that has gone does not come back.
                raise SystemExit(1) from None

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    scheduler = schedule.Scheduler()
    scheduler.every(interval).seconds.do(collect)  # type: ignore[arg-type]  # a float does, too
    scheduler.run_all()
    while not stopped:
        idle = scheduler.idle_seconds or 0.0
        if idle > interval:  # The clock was set back.
            scheduler.run_all()
        elif idle > 0:
            time.sleep(idle)
        scheduler.run_pending()

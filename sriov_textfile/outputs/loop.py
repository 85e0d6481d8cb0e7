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

    A collection that cannot be delivered is logged, and the next one runs. Raises SystemExit
    when SIGTERM or SIGINT comes, whatever the program is at.
    """

    def collect() -> None:
        try:
            once.collect(gatherer, path)
        except once.DeliveryError as error:
            log.error(str(error))

    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _exit)
    scheduler = schedule.Scheduler()
    scheduler.every(interval).seconds.do(collect)  # type: ignore[arg-type]  # a float does, too
    scheduler.run_all()
    while True:
        idle = scheduler.idle_seconds or 0.0
        if idle > interval:  # The clock was set back.
            scheduler.run_all()
        elif idle > 0:
            time.sleep(idle)
        scheduler.run_pending()


def _exit(*unused: object) -> None:
    raise SystemExit(0)

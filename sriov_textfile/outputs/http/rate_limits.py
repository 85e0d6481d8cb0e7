"""Limits the rate of requests for each client address, and for all addresses together."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_ADDRESSES = 1024  # whose rate is remembered
_TOTAL_RATE = 10  # times the rate of one address


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

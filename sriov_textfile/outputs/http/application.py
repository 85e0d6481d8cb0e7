"""Answers requests: GET /metrics with a collection, everything else with an error."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

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
from sriov_textfile.gather import Gatherer, GatherError
from sriov_textfile.log import Log
from sriov_textfile.outputs.http.messages import Response, error_response
from sriov_textfile.outputs.http.rate_limits import RateLimits

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]


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
            return error_response(400)
        if path != "/metrics":
            return error_response(404) if method == "GET" else error_response(405, ("Allow", "GET"))
        if not self._rates.allow(client):
            return error_response(429)
        if method != "GET":
            return error_response(405, ("Allow", "GET"))
        try:
            page = await self._collect()
        except GatherError as error:
            self._log.problems("delivery", {"error": [error.problem]})
            return error_response(503)
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

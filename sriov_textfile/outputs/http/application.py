"""Answers requests: GET /metrics with a collection, everything else with an error.

Status codes are those of the Go exporter, and with --web.config.file those of node_exporter.
"""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from sriov_textfile import exposition
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.outputs.http.messages import Request, Response, error_response
from sriov_textfile.outputs.http.rate_limits import RateLimits
from sriov_textfile.problems import ProblemError
from sriov_textfile.snapshots import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Imported by serve() if there is a file: with its packages they take 60 ms and 4 MB.
    from sriov_textfile.outputs.http.basic_auth import BasicAuth
    from sriov_textfile.outputs.http.web_config import WebConfig, WebConfigFile

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]


class Application:
    """Answers requests."""

    def __init__(
        self,
        gatherer: Gatherer,
        rates: RateLimits,
        log: Log,
        web: WebConfigFile | None = None,
    ) -> None:
        self._gatherer = gatherer
        self._rates = rates
        self._web = web
        self._log = log
        self._auth: BasicAuth | None = None
        self._collection: asyncio.Future[bytes] | None = None
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "promhttp_metric_handler_requests",  # the name in Go's handler; _total is appended
            "Requests, by the status of the answer.",
            ["code"],
            registry=self._registry,
        )

    def count(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._requests.labels(str(status)).inc()

    def web_config(self) -> WebConfig | None:
        """Return the web configuration as it is now, None without one.

        Logs and raises ProblemError if its file cannot be used.
        """
        if self._web is None:
            return None
        problems = []
        try:
            return self._web.current()
        except ProblemError as error:
            problems.append(error.problem)
            raise
        finally:
            self._log.problems("web configuration", {"error": problems})

    async def answer(self, request: Request) -> Response:
        """Return the answer to a request."""
        try:
            web = self.web_config()
        except ProblemError:
            return error_response(500)
        if web is None:
            return await self._answer(request)
        response = await self._refusal(request, web.users) or await self._answer(request)
        response.headers.extend(web.headers)
        return response

    async def _refusal(self, request: Request, users: dict[str, str]) -> Response | None:
        """Return the answer to a request without the name and password of a user, or None."""
        if not users:
            return None
        if self._auth is None:
            from sriov_textfile.outputs.http.basic_auth import BasicAuth

            self._auth = BasicAuth()
        if await self._auth.is_user(request.client, request.authorization, users):
            return None
        return error_response(401, ("WWW-Authenticate", "Basic"))

    async def _answer(self, request: Request) -> Response:
        try:
            path = urlsplit(request.target).path
        except ValueError:
            return error_response(400)
        is_get = request.method == "GET"
        if path != "/metrics":
            return error_response(404) if is_get else error_response(405, ("Allow", "GET"))
        if not self._rates.allow(request.client):
            return error_response(429)
        if not is_get:
            return error_response(405, ("Allow", "GET"))
        try:
            page = await self._collect()
        except SnapshotError as error:
            self._log.problems("delivery", {"error": [error.problem]})
            return error_response(503)
        self._log.problems("delivery", {})
        page += generate_latest(self._registry)
        headers = [("Content-Type", CONTENT_TYPE), ("Vary", "Accept-Encoding")]
        if _accepts_gzip(request.encodings):
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

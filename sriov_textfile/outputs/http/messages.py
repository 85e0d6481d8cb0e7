"""Request and Response: what connections and the application exchange."""

from __future__ import annotations


class Request:
    """What the application needs of a request; `client` is where it comes from."""

    __slots__ = ("authorization", "client", "encodings", "method", "target")

    def __init__(
        self, client: str, method: str, target: str, encodings: str, authorization: bytes
    ) -> None:
        self.client = client
        self.method = method
        self.target = target
        self.encodings = encodings  # Accept-Encoding
        self.authorization = authorization


class Response:
    """Status, headers and body of an answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = [("Content-Length", str(len(body))), *headers]


REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def error_response(status: int, *headers: tuple[str, str]) -> Response:
    """Return the answer with a status, further headers, and the status's name as the body."""
    plain = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status, f"{REASONS[status]}\n".encode(), plain, *headers)

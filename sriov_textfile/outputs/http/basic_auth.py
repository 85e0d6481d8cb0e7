"""Checks user names and passwords (HTTP basic authentication, RFC 7617) against bcrypt hashes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from sriov_textfile.outputs.http.rate_limits import RateLimits

# bcrypt is slow on purpose, so a client may try few passwords. That of Prometheus is computed once.
_RATE = 1
_BURST = 3
_REMEMBERED = 100
_PASSWORD_BYTES = 72  # bcrypt uses no more
# Compared with the password of an unknown user, so that it takes as long as for a known one.
_UNKNOWN_USER = "$2b$10$7PaD52vq1uf9FYyTEzU4Cu3MjNs9LsBwKuESpIvSNj5ki5ASEvMQS"


class BasicAuth:
    """Checks credentials, and remembers those that were right."""

    def __init__(self) -> None:
        self._attempts = RateLimits(_RATE, _BURST)
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._right: set[bytes] = set()
        self._secret = os.urandom(32)

    async def is_user(self, client: str, header: bytes, users: dict[str, str]) -> bool:
        """Return whether an Authorization header has the name and password of a user.

        `users` has bcrypt hashes by name. A client that tries many passwords is refused without
        a look at them.
        """
        credentials = _credentials(header)
        if credentials is None:
            return False
        name, password = credentials
        known = users.get(name)
        hashed = (known or _UNKNOWN_USER).encode()
        digest = hashlib.blake2b(hashed + b"\0" + password, key=self._secret).digest()
        if known and digest in self._right:
            return True
        if not self._attempts.allow(client):
            return False
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._worker, _matches, password, hashed)
        if not (known and right):
            return False
        if len(self._right) >= _REMEMBERED:
            self._right.clear()
        self._right.add(digest)
        return True


def _credentials(header: bytes) -> tuple[str, bytes] | None:
    """Return the name and password in a header, or None if it has none."""
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except ValueError:
        return None
    return (name.decode("utf-8", "replace"), password) if colon else None


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_PASSWORD_BYTES], hashed)
    except ValueError:  # The hash has the form of one, but is none.
        return False

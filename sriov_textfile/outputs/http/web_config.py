"""Reads the file of --web.config.file: TLS, client certificates, users and headers.

The format is that of Prometheus' exporter-toolkit (docs/web-configuration.md there), so a file of
node_exporter's can be used as it is. What this program cannot do is an error, never ignored.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from sriov_textfile.outputs.http import tls
from sriov_textfile.problems import Problem, ProblemError

# The headers that may be set, with their values if those are limited.
_HEADERS = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_HASH_LENGTHS = (59, 60)  # with one or two characters for the version: $2$, $2y$


@dataclass(frozen=True)
class WebConfig:
    """What a web configuration file asks for."""

    tls: ssl.SSLContext | None  # None is plain HTTP
    allowed_sans: frozenset[str] | None  # of client certificates; None allows all
    users: dict[str, str]  # bcrypt hashes by name; empty allows everyone
    headers: tuple[tuple[str, str], ...]  # of every answer

    def allows(self, certificate: dict[str, Any] | None) -> bool:
        """Return whether a client may connect with a certificate that TLS has accepted.

        `certificate` is what ssl.SSLObject.getpeercert() returns: None without one.
        """
        if self.allowed_sans is None:
            return True
        names = {
            str(ipaddress.ip_address(name)) if kind == "IP Address" else name
            for kind, name in (certificate or {}).get("subjectAltName", ())
        }
        return not names.isdisjoint(self.allowed_sans)


class WebConfigFile:
    """A web configuration that is read again when the file, or one that it names, has changed."""

    def __init__(self, path: str) -> None:
        """`path` is the file; nothing is read yet."""
        self._path = path
        self._versions: dict[str, object] = {}  # by path, of the files that it was read from
        self._config: WebConfig | None = None
        self._problem = ""

    def current(self) -> WebConfig:
        """Return the configuration as the files are now.

        Raises ProblemError while a file cannot be used, as node_exporter then refuses everyone.
        """
        if not self._versions or self._is_changed():
            try:
                self._config = self._read()
            except (OSError, ValueError) as error:
                self._config = None
                self._problem = getattr(error, "strerror", None) or str(error)
        if self._config is None:
            reason = f"cannot use {self._path} (--web.config.file): {self._problem}"
            raise ProblemError(Problem("web-config", self._path, reason))
        return self._config

    def _is_changed(self) -> bool:
        return any(_version(path) != version for path, version in self._versions.items())

    def _read(self) -> WebConfig:
        """Return the configuration in the file; raises OSError, ValueError."""
        # A version is noted before the file is read: a change in between is seen the next time.
        self._versions = {self._path: _version(self._path)}
        with open(self._path, "rb") as file:
            found = _parse(file.read())
        settings = found.tls_server_config.in_folder(os.path.dirname(self._path))
        self._versions.update({path: _version(path) for path in settings.files})
        sans = settings.client_allowed_sans
        return WebConfig(
            tls=tls.context(settings) if settings.enabled else None,
            allowed_sans=None if sans is None else frozenset(sans),
            users=found.basic_auth_users,
            headers=tuple(
                (name, _sent(value)) for name, value in found.http_server_config.headers.items()
            ),
        )


class _Http(msgspec.Struct, forbid_unknown_fields=True):
    http2: bool = True  # accepted, but HTTP/2 is never offered
    headers: dict[str, str] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tls_server_config: tls.TlsSettings = msgspec.field(default_factory=tls.TlsSettings)
    http_server_config: _Http = msgspec.field(default_factory=_Http)
    basic_auth_users: dict[str, str] = {}


def _parse(text: bytes) -> _File:
    """Return what the text of a file has; raises ValueError."""
    try:
        # Every scalar is read as text, and converted afterwards: the user 1 and the user on are
        # names, as in Go.
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  # it is a BaseLoader
        found = msgspec.convert(content or {}, _File, strict=False)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"character {error.position}: {error.reason}") from None
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for name, value in found.http_server_config.headers.items():
        allowed = _HEADERS.get(name)
        if allowed is None:
            raise ValueError(f"the header {name} cannot be set; use {', '.join(_HEADERS)}")
        sent = _sent(value)
        if (allowed and value not in allowed) or not (sent.isascii() and sent.isprintable()):
            raise ValueError(f"the header {name} cannot be {value!r}")
    for user, password in found.basic_auth_users.items():
        if not (password.startswith("$2") and len(password) in _HASH_LENGTHS):
            raise ValueError(f"the password of the user {user} is not a bcrypt hash")
    return found


def _sent(value: str) -> str:
    """Return the value of a header as it is sent.

    White space at the ends is no part of it (RFC 9110, section 5.5), such as the newline of a YAML
    block. Go removes it too.
    """
    return value.strip(" \t\r\n")


class _Loader(yaml.BaseLoader):
    """Reads every scalar as text, without keys that have no value; a key may not be repeated."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; PyYAML calls this."""
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                problem = f"{name} is repeated"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(name)
        node.value = [(key, value) for key, value in node.value if not _is_null(value)]
        return super().construct_mapping(node, deep)


def _is_null(node: yaml.Node) -> bool:
    plain = isinstance(node, yaml.ScalarNode) and not node.style
    return plain and node.value in ("", "~", "null")


def _version(path: str) -> object:
    """Return what changes with a file: its times, size and inode; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

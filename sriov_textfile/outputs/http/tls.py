"""TLS settings, in the words of Prometheus' exporter-toolkit, as a context of OpenSSL."""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import msgspec

_Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
_Curve = Literal["CurveP256", "CurveP384", "CurveP521", "X25519"]
_ClientAuth = Literal[
    "",
    "NoClientCert",
    "RequestClientCert",
    "RequireClientCert",
    "RequireAnyClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]

_VERSIONS: dict[_Version, ssl.TLSVersion] = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CURVES: dict[_Curve, str] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
# Go's names of cipher suites, and OpenSSL's; "" for TLS 1.3, where all are always available.
_CIPHERS = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
_VERIFIED = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")


class TlsSettings(msgspec.Struct, forbid_unknown_fields=True):
    """The section tls_server_config of a web configuration file."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: _ClientAuth = ""
    client_allowed_sans: list[str] | None = None
    cipher_suites: list[str] = []
    # Python's ssl can set one curve only.
    curve_preferences: Annotated[list[_Curve], msgspec.Meta(max_length=1)] = []
    min_version: _Version = "TLS12"
    max_version: _Version = "TLS13"
    prefer_server_cipher_suites: bool = True

    @property
    def enabled(self) -> bool:
        """Whether the server is to use TLS."""
        certificates = (self.cert, self.cert_file, self.key, self.key_file)
        authorities = (self.client_ca, self.client_ca_file)
        return any(certificates) or any(authorities) or bool(self.client_auth_type)

    @property
    def files(self) -> list[str]:
        """The files that the settings name."""
        return [path for path in (self.cert_file, self.key_file, self.client_ca_file) if path]

    def in_folder(self, folder: str) -> TlsSettings:
        """Return the settings with relative paths as paths in a folder."""
        return msgspec.structs.replace(
            self,
            cert_file=self.cert_file and os.path.join(folder, self.cert_file),
            key_file=self.key_file and os.path.join(folder, self.key_file),
            client_ca_file=self.client_ca_file and os.path.join(folder, self.client_ca_file),
        )


def context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the settings as a context of OpenSSL; raises ValueError with what is wrong."""
    if not (settings.cert or settings.cert_file) or not (settings.key or settings.key_file):
        raise ValueError("TLS needs cert_file and key_file")
    for path in settings.files:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    result.set_alpn_protocols(["http/1.1"])
    _set_protocol(result, settings)
    _set_certificate(result, settings)
    _set_client_certificates(result, settings)
    return result


def _set_protocol(context: ssl.SSLContext, settings: TlsSettings) -> None:
    unknown = [name for name in settings.cipher_suites if name not in _CIPHERS]
    if unknown:
        raise ValueError(f"unknown cipher {unknown[0]}; use {', '.join(_CIPHERS)}")
    ciphers = [_CIPHERS[name] for name in settings.cipher_suites if _CIPHERS[name]]
    least = _VERSIONS[settings.min_version]
    if settings.cipher_suites and not ciphers:
        least = ssl.TLSVersion.TLSv1_3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.0 and 1.1
        context.minimum_version = least
        context.maximum_version = _VERSIONS[settings.max_version]
    try:
        if ciphers:
            context.set_ciphers(":".join(ciphers))
        for curve in settings.curve_preferences:
            context.set_ecdh_curve(_CURVES[curve])
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"OpenSSL lacks these ciphers or curves: {error}") from None
    if not settings.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE


def _set_certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    def refuse() -> str:  # or else OpenSSL asks for the password at the terminal
        raise ValueError("the key has a password; use a key without one")

    with (
        _file(settings.cert_file, settings.cert) as cert,
        _file(settings.key_file, settings.key) as key,
    ):
        try:
            context.load_cert_chain(cert, key, password=refuse)
        except ssl.SSLError as error:
            names = f"{settings.cert_file or 'cert'} and {settings.key_file or 'key'}"
            reason = error.reason or "no PEM"
            raise ValueError(f"{names} are not a certificate and its key ({reason})") from None


def _set_client_certificates(context: ssl.SSLContext, settings: TlsSettings) -> None:
    kind = settings.client_auth_type
    if kind in ("RequireClientCert", "RequireAnyClientCert"):
        raise ValueError(
            f"client_auth_type {kind} is not supported: it accepts certificates of anyone;"
            " use RequireAndVerifyClientCert"
        )
    if settings.client_allowed_sans is not None and kind != "RequireAndVerifyClientCert":
        raise ValueError("client_allowed_sans needs client_auth_type RequireAndVerifyClientCert")
    with _file(settings.client_ca_file, settings.client_ca) as authorities:
        if authorities and kind in ("", "NoClientCert"):
            raise ValueError("client_ca_file needs a client_auth_type")
        if kind not in _VERIFIED:
            return  # A certificate that is only requested decides nothing.
        try:
            if authorities:
                context.load_verify_locations(authorities)
            else:
                context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        except ssl.SSLError:
            where = settings.client_ca_file or "client_ca"
            raise ValueError(f"{where} has no certificate") from None
    required = kind == "RequireAndVerifyClientCert"
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


@contextmanager
def _file(path: str, text: str) -> Iterator[str]:
    """Give the path of a file that exists, or else of one with the text; "" if there is neither."""
    if path or not text:
        yield path
        return
    # ssl reads files only, and a key must not reach a disk.
    with open(os.memfd_create("pem"), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"

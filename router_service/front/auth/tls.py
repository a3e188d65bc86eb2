"""The Front's certificates for gRPC and HTTP. They are reloaded when their files change; open connections stay."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc

from experts.host.user_path import user_path
from experts.host.watched_files import WatchedFiles
from router_service.front.config import FrontConfig


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate chain, its key and the authority of client certificates, in PEM; `context` is made of the same."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext = field(compare=False)


class ServerTls:
    """The certificates of a Front, as gRPC and asyncio servers need them."""

    def __init__(self, config: FrontConfig) -> None:
        """Read the files.

        Raises:
            ValueError: a file is missing or invalid, or key and certificate do not match.
        """
        cert = user_path(config.tls_cert, "front.tls_cert")
        key = user_path(config.tls_key, "front.tls_key")
        client_ca = user_path(config.tls_client_ca, "front.tls_client_ca") if config.tls_client_ca else None
        self._files = WatchedFiles(
            "front.tls_cert, tls_key, tls_client_ca",
            [path for path in (cert, key, client_ca) if path is not None],
            lambda: read_certificates(cert, key, client_ca),
        )

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a gRPC port; each handshake uses the current certificates."""
        first = self._files.current()
        # The stubs lack None, which tells gRPC that nothing has changed.
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], _Fetcher(self._files.current, first))
        return grpc.dynamic_ssl_server_credentials(_configuration(first), fetch, first.client_ca is not None)

    def http_context(self) -> ssl.SSLContext:
        """Return a context for an asyncio server; each handshake uses the current certificates."""
        context = _NewestContext(ssl.PROTOCOL_TLS_SERVER)
        context.newest = lambda: self._files.current().context
        return context


class _NewestContext(ssl.SSLContext):
    """Delegates each connection to the newest context; has no certificate itself.

    Replacing a connection's context during its handshake would be too late: a session from before a change of the
    client authority would be resumed, and no certificate requested.
    """

    newest: Callable[[], ssl.SSLContext]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """See `SSLContext`; asyncio creates its connections by this."""
        return self.newest().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class _Fetcher:
    """Called by gRPC at each handshake, on a thread of gRPC's: returns new certificates, None if they are unchanged."""

    def __init__(self, current: Callable[[], Certificates], given: Certificates) -> None:
        self._current = current
        self._given = given

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        certificates = self._current()
        if certificates is self._given:
            return None
        self._given = certificates
        return _configuration(certificates)


def read_certificates(cert: Path, key: Path, client_ca: Path | None = None) -> Certificates:
    """Read and check PEM files.

    Raises:
        ValueError: a file is missing or not PEM, or the key does not match; the message names the setting.
    """
    before = [_read(setting, path) for setting, path in _settings(cert, key, client_ca)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        problem = "no certificate chain and its unencrypted key in PEM"
        raise ValueError(f"front.tls_cert, front.tls_key: {cert}, {key}: {problem}: {_reason(error)}") from error
    if client_ca is not None:
        _require_clients(context, client_ca)
    # `load_cert_chain` has read the files again: they may have been replaced between that and our reading.
    if before != [_read(setting, path) for setting, path in _settings(cert, key, client_ca)]:
        raise ValueError("the files are being replaced; they are read again when that is done")
    return Certificates(
        chain=before[0], key=before[1], client_ca=before[2] if client_ca is not None else None, context=context
    )


def _require_clients(context: ssl.SSLContext, client_ca: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=client_ca)
    except OSError as error:
        raise ValueError(f"front.tls_client_ca: {client_ca}: no certificates in PEM: {_reason(error)}") from error


def _settings(cert: Path, key: Path, client_ca: Path | None) -> list[tuple[str, Path]]:
    named = [("front.tls_cert", cert), ("front.tls_key", key)]
    return named if client_ca is None else [*named, ("front.tls_client_ca", client_ca)]


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{setting}: {path}: cannot be read: {error.strerror}") from error


def _no_password() -> str:
    # Without this OpenSSL would prompt on the terminal.
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.chain)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)

"""The Front's certificates, for gRPC and for HTTP, read again when their files change; connections that are up stay."""

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
    """A certificate chain and its key in PEM, and whom clients' certificates must come from; `context` has the same."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext = field(compare=False)


class ServerTls:
    """The certificates of a Front and what servers are made with."""

    def __init__(self, config: FrontConfig) -> None:
        """Read the files.

        Raises:
            ValueError: one is missing or wrong, or key and certificate do not belong together.
        """
        named = {key: getattr(config, key) for key in ("tls_cert", "tls_key", "tls_client_ca")}
        paths = [user_path(file, f"front.{key}") for key, file in named.items() if file]
        self._files = WatchedFiles("front.tls_cert, tls_key, tls_client_ca", paths, lambda: read_certificates(*paths))

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for a gRPC port; each handshake takes the certificates that are then in the files."""
        first = self._files.current()
        # The stubs do not say that None stands for no change; grpc does.
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], _Fetcher(self._files.current, first))
        return grpc.dynamic_ssl_server_credentials(_configuration(first), fetch, first.client_ca is not None)

    def http_context(self) -> ssl.SSLContext:
        """A context for a server of asyncio; each handshake takes the certificates that are then in the files."""
        context = _NewestContext(ssl.PROTOCOL_TLS_SERVER)
        context.newest = lambda: self._files.current().context
        return context


class _NewestContext(ssl.SSLContext):
    """Hands each connection over to the context that is then the newest; has no certificate itself.

    Exchanging a connection's context during its handshake would be too late: a session that began under a client
    authority that has been replaced since would be resumed, and nobody asked for a certificate.
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
        """See `SSLContext`; what asyncio makes its connections with."""
        return self.newest().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class _Fetcher:
    """What gRPC asks at each handshake, on a thread of its own: the new certificates, None where they are the same."""

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
        ValueError: one is missing or no PEM, or the key is another certificate's; the message names the setting.
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
    if before != [_read(setting, path) for setting, path in _settings(cert, key, client_ca)]:
        raise ValueError("the files are being replaced; they are read again when that is done")
    return Certificates(before[0], before[1], before[2] if client_ca is not None else None, context)


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
    # Without this OpenSSL would ask the terminal.
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.chain)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)

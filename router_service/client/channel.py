"""How a client reaches a Front: plaintext or TLS, with or without a token."""

import json
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

# Servers of earlier versions send the routing of a long prompt in one message, over gRPC's default of 4 MiB.
MAX_RESPONSE_BYTES = 64 << 20
# The most that gRPC's own retries allow.
MAX_ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
# Not ClusterAdmin: a move that has begun when the answer is lost must not be asked for again.
RETRIED = [{"service": "expertmesh.v1.Inference"}, {"service": "expertmesh.v1.Cluster"}]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a Front: PEM files.

    `ca`: authority that must have issued the server's certificate; None uses gRPC's roots. `cert`, `key`: the client's
    certificate and key, for servers that require them (mutual TLS).
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            OSError: a file cannot be read.
        """
        ca, key, cert = (self._read(name) for name in ("ca", "key", "cert"))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def _read(self, name: str) -> bytes | None:
        path: Path | None = getattr(self, name)
        try:
            return path.read_bytes() if path else None
        except OSError as error:
            raise OSError(f"{name}: cannot read {path}: {error.strerror}") from error


def open_channel(target: str, tls: Tls | None, attempts: int = 1) -> grpc.aio.Channel:
    """Return a channel to HOST:PORT with a connection of its own, opened on the first call.

    Args:
        attempts: how often a call is sent as long as it is refused with UNAVAILABLE, with pauses of up to 1, 2, 4 and
            8 seconds. An accepted call sends metadata first, which ends gRPC's retries: none runs twice.

    Raises:
        ValueError: `attempts` is not within 1 to 5.
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        # gRPC shares connections among channels otherwise, but Fronts behind one address share the load by connections.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", _service_config(attempts)),
        # gRPC's own pauses grow to two minutes, in which calls fail at once though the Front is back.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, tls.credentials(), options=options)


def _service_config(attempts: int) -> str:
    """Return gRPC's service config (proposal A6) for `attempts` of each call except Health/Check, which is to return
    the server's current state.
    """
    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise ValueError(f"attempts: {attempts} is not within 1 to {MAX_ATTEMPTS}")
    policy = {
        "maxAttempts": attempts,
        "initialBackoff": f"{FIRST_PAUSE_SECONDS}s",
        "maxBackoff": f"{LONGEST_PAUSE_SECONDS}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": RETRIED, "retryPolicy": policy}]} if attempts > 1 else {})


def token_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata with a token, none without one.

    Raises:
        ValueError: it cannot be a token; the message does not contain it.
    """
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token must be printable ASCII without spaces")
    return (("authorization", f"Bearer {token}"),)

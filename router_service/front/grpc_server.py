"""The Front's gRPC server: its limits and its keepalive. All that gRPC itself would refuse is left to the Front."""

import math
from collections.abc import Sequence
from typing import Any

import grpc.aio

from router_service.front.auth.grpc_interceptor import MAX_INT32, grpc_limit
from router_service.front.auth.tls import ServerTls
from router_service.front.config import FrontConfig

# A client that vanished (no FIN comes) is asked for a sign of life, and its calls are cancelled if none comes.
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
# Clients ping every ten seconds, some every five, also without calls. Pings do not arrive as evenly as they were sent,
# and three that came too early since the last data end the connection, however far apart they were: a wide margin.
MIN_PING_MS = 1_000
# Streams of one connection beside as many as the Front answers at all: for refusals, health and the unary calls. More
# wait in the client until others have ended.
SPARE_STREAMS = 64


def make_server(config: FrontConfig, interceptors: Sequence[Any]) -> grpc.aio.Server:
    """Return a server without services and ports."""
    return grpc.aio.server(interceptors=interceptors, options=server_options(config))


def server_options(config: FrontConfig) -> list[tuple[str, int]]:
    """Return the channel arguments of the server."""
    options = [
        # Set explicitly: by default gRPC shares the port, and a second Front would not notice that it is taken.
        ("grpc.so_reuseport", int(config.reuse_port)),
        ("grpc.max_receive_message_length", grpc_limit(config.max_request_bytes)),
        # Routing and log-probabilities of a long prompt make large messages; what a client takes is its own limit.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", min(config.max_concurrent_streams + SPARE_STREAMS, MAX_INT32)),
        # Else gRPC also counts streams that the client knows to be over, and resets new ones as UNAVAILABLE.
        ("grpc.http.overload_protection", 0),
        *_queue_options(),
        *_keepalive_options(),
    ]
    if config.connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", math.ceil(1000 * config.connection_age_seconds)))
    return options


def bind(server: grpc.aio.Server, config: FrontConfig, tls: ServerTls | None) -> int:
    """Bind the configured address, return the port.

    Raises:
        OSError: it cannot be bound.
    """
    address = f"{config.host}:{config.grpc_port}"
    try:
        port = _open_port(server, address, tls)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    if not port:
        raise OSError(f"cannot listen on {address}")
    return port


def _queue_options() -> list[tuple[str, int]]:
    """Let calls wait for the event loop: gRPC cancels at random from 1,000 on, all over 3,000 or after 30 seconds.

    The queue stays bounded by the streams of a connection. Each call leaves it as soon as the Front has refused it.
    """
    return [
        ("grpc.server.max_pending_requests", MAX_INT32),
        ("grpc.server.max_pending_requests_hard_limit", MAX_INT32),
        ("grpc.server_max_unrequested_time_in_server", MAX_INT32),
    ]


def _keepalive_options() -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # gRPC 1.85 starts no timer of the former; this one, a minute by default, ends the connection.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # Without calls too, in both directions: an idle client must not find its connection dead at its next call.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
    ]


def _open_port(server: grpc.aio.Server, address: str, tls: ServerTls | None) -> int:
    return server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls.grpc_credentials())

"""The Front's settings."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from experts.host.bounds import FilePath, Host, Port, Seconds, SecondsOrZero, Times, check_settings, setting


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """Where the API and the pages listen, and how long and how much the Front waits.

    Args:
        host: address that the API binds
        grpc_port: port of the API; 0 picks a free one; `expertmesh serve` that is told none takes 50051, or the next
            free one
        metrics_host: address that the metrics page binds
        metrics_port: port of the metrics page; 0 picks a free one, null serves no page; `expertmesh serve` that is told
            none takes 9090, or the next free one
        metrics_ports: of so many ports from metrics_port on the first free one is taken, so that several Fronts of one
            machine have a known one each; on a machine of our own `cluster.fronts` decides
        http_host: address that the live page binds
        http_port: port of the live page; 0 picks a free one, null serves no page
        max_pages: live pages open at once; one more is told to come later
        reuse_port: whether several Fronts may bind one port
        max_concurrent_streams: requests at once; one more is refused with RESOURCE_EXHAUSTED
        max_request_bytes: the largest request; one more byte is refused with RESOURCE_EXHAUSTED. Up to twice as many
            are read into memory, to say so
        max_buffered_tokens: a client that falls so far behind its stream loses it
        router_wait_seconds: how long a request waits for a router when none is linked, its deadline permitting
        poll_seconds: how often the Front looks for routers
        connect_timeout_seconds: how long linking a router may take
        connection_age_seconds: after about so long a client is told to connect anew (GOAWAY), while its calls go on; 0
            is never, or a little below `cluster.drain_notice_seconds` where that is set: when a drain then refuses new
            calls, nobody that load balancers have led elsewhere is connected here any more
        link_silence_seconds: a router that says nothing for so long is taken for dead
        max_resubmits: how often a request may outlive its router
        checksum: whether frames to routers carry one; `experts.checksum` decides in a cluster
        tls_cert: certificate chain; with it API and live page speak TLS only; read again when it changes
        tls_key: its key; read again when it changes
        tls_client_ca: clients must show a certificate that comes from it (mutual TLS); read again when it changes
        tokens_file: callers must send a token of this file (`expertmesh token` makes them); read again when it changes.
            The metrics page asks for no token on any address: it has counts, and no prompts
        allow_unauthenticated: without a tokens file too, listen on other addresses than loopback: whoever reaches the
            port may use everything
    """

    host: Host = "127.0.0.1"
    grpc_port: Port = 0
    metrics_host: Host = "127.0.0.1"
    metrics_port: Port | None = 0
    metrics_ports: Annotated[int, setting("ports", ge=1)] = 1
    http_host: Host = "127.0.0.1"
    http_port: Port | None = 0
    max_pages: Annotated[int, setting("pages", ge=1)] = 64
    reuse_port: bool = False
    max_concurrent_streams: Annotated[int, setting("requests", ge=1)] = 1024
    max_request_bytes: Annotated[int, setting("bytes", ge=1)] = 16 << 20
    max_buffered_tokens: Annotated[int, setting("tokens", ge=1)] = 16384
    router_wait_seconds: SecondsOrZero = 30.0
    poll_seconds: Seconds = 1.0
    connect_timeout_seconds: Seconds = 5.0
    connection_age_seconds: SecondsOrZero = 0.0
    link_silence_seconds: Seconds = 30.0
    max_resubmits: Times = 3
    checksum: bool = False
    tls_cert: Annotated[str, setting(said="a PEM file")] = ""
    tls_key: Annotated[str, setting(said="a PEM file")] = ""
    tls_client_ca: Annotated[str, setting(said="a PEM file")] = ""
    tokens_file: FilePath = ""
    allow_unauthenticated: bool = False

    def __post_init__(self) -> None:
        check_settings("front", self)
        self._check_security()

    def _check_security(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            given, lacking = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ValueError(f"front.{given} is set and front.{lacking} is not: TLS needs both")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("front.tls_client_ca is set and front.tls_cert is not: mutual TLS needs a certificate too")
        if not self._may_reach(self.host):
            raise ValueError(_open_door("host", self.host))
        if self.http_port is not None and not self._may_reach(self.http_host):
            raise ValueError(_open_door("http_host", self.http_host))

    def _may_reach(self, host: str) -> bool:
        return bool(self.tokens_file) or self.allow_unauthenticated or is_loopback(host)


def _open_door(key: str, host: str) -> str:
    return (
        f"front.{key} is {host!r}, which others can reach, and front.tokens_file is not set: set it, or "
        "front.allow_unauthenticated: true to let everyone who reaches the port use everything"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`; of names that is known of localhost alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

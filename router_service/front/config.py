"""The Front's settings."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """Where the API and the pages listen, and how long and how much the Front waits.

    Args:
        host: address that the API binds [-; an address of this machine]
        grpc_port: port of the API; 0 picks a free one [-; 0 to 65535]
        metrics_host: address that the metrics page binds [-; an address of this machine]
        metrics_port: port of the metrics page; 0 picks a free one, null serves no page [-; 0 to 65535, or null]
        metrics_ports: of so many ports from metrics_port on the first free one is taken, so that several Fronts of one
            machine have a known one each; on a machine of our own `cluster.fronts` decides [ports; at least 1]
        http_host: address that the live page binds [-; an address of this machine]
        http_port: port of the live page; 0 picks a free one, null serves no page [-; 0 to 65535, or null]
        max_pages: live pages open at once; one more is told to come later [pages; at least 1]
        reuse_port: whether several Fronts may bind one port
        max_concurrent_streams: requests at once; one more is refused with RESOURCE_EXHAUSTED [requests; at least 1]
        max_request_bytes: the largest request; one more byte is refused with RESOURCE_EXHAUSTED. Up to twice as many
            are read into memory, to say so [bytes; at least 1]
        max_buffered_tokens: a client that falls so far behind its stream loses it [tokens; at least 1]
        router_wait_s: how long a request waits for a router when none is linked, its deadline permitting
            [seconds; at least 0]
        poll_s: how often the Front looks for routers [seconds; over 0]
        connect_timeout_s: how long linking a router may take [seconds; over 0]
        connection_age_s: after about so long a client is told to connect anew (GOAWAY), while its calls go on; 0 is
            never, or a little below `cluster.drain_notice_seconds` where that is set: when a drain then refuses new
            calls, nobody that load balancers have led elsewhere is connected here any more [seconds; at least 0]
        link_silence_s: a router that says nothing for so long is taken for dead [seconds; over 0]
        max_resubmits: how often a request may outlive its router [times; at least 0]
        checksum: whether frames to routers carry one; `experts.checksum` decides in a cluster
        tls_cert: certificate chain; with it API and live page speak TLS only; read again when it changes
            [-; a PEM file]
        tls_key: its key; read again when it changes [-; a PEM file]
        tls_client_ca: clients must show a certificate that comes from it (mutual TLS); read again when it changes
            [-; a PEM file]
        tokens_file: callers must send a token of this file (`expertmesh token` makes them); read again when it changes.
            The metrics page asks for no token on any address: it has counts, and no prompts [-; a path]
        allow_unauthenticated: without a tokens file too, listen on other addresses than loopback: whoever reaches the
            port may use everything
    """

    host: str = "127.0.0.1"
    grpc_port: int = 0
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 0
    metrics_ports: int = 1
    http_host: str = "127.0.0.1"
    http_port: int | None = 0
    max_pages: int = 64
    reuse_port: bool = False
    max_concurrent_streams: int = 1024
    max_request_bytes: int = 16 << 20
    max_buffered_tokens: int = 16384
    router_wait_s: float = 30.0
    poll_s: float = 1.0
    connect_timeout_s: float = 5.0
    connection_age_s: float = 0.0
    link_silence_s: float = 30.0
    max_resubmits: int = 3
    checksum: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tokens_file: str = ""
    allow_unauthenticated: bool = False

    def __post_init__(self) -> None:
        self._check_security()
        for name in ("grpc_port", "metrics_port", "http_port"):
            if not 0 <= (getattr(self, name) or 0) <= 65535:
                raise ValueError(f"front.{name} is {getattr(self, name)}, it must be 0 to 65535")
        counts = ("max_concurrent_streams", "max_request_bytes", "max_buffered_tokens", "max_pages", "metrics_ports")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"front.{name} is {getattr(self, name)}, it must be at least 1")
        for name in ("router_wait_s", "max_resubmits", "connection_age_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"front.{name} is {getattr(self, name)}, it must not be negative")
        for name in ("poll_s", "connect_timeout_s", "link_silence_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"front.{name} is {getattr(self, name)}, it must be over 0")

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

"""The Front's settings."""

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from experts.host.bounds import FilePath, Host, Port, Seconds, SecondsOrZero, Text, Times, check_settings, setting
from router_service.text.chats.template_fields import template_kwargs_of


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """Addresses of the API and the pages, and the Front's limits and timeouts.

    Args:
        host: address that the API binds
        grpc_port: port of the API; 0 picks a free one. When no port is given, `expertmesh serve` uses 50051 or the next
            free one
        metrics_host: address that the metrics page binds
        metrics_port: port of the metrics page; 0 picks a free one, null turns the page off. When no port is given,
            `expertmesh serve` uses 9090 or the next free one
        metrics_ports: number of consecutive ports from metrics_port on, of which the first free one is used, so that
            several Fronts on one machine have known ports; without `cluster.address` it is `cluster.fronts`
        http_host: address that the HTTP API and the live page bind
        http_port: port of the HTTP API and the live page; 0 picks a free one, null turns both off. When no port is
            given, `expertmesh serve` uses 8000 or the next free one
        max_pages: live pages open at the same time; further ones are refused with UNAVAILABLE
        reuse_port: whether several Fronts may bind the same port
        max_concurrent_streams: concurrent requests, one for several answers (`n`) counted as so many; further ones are
            refused with RESOURCE_EXHAUSTED
        max_request_bytes: size of the largest request; larger ones are refused with RESOURCE_EXHAUSTED. Up to twice as
            much is read into memory, so that the error can name the limit
        max_buffered_tokens: tokens that may wait for a slow client; beyond it the stream fails with RESOURCE_EXHAUSTED
        slow_reader_seconds: a client that reads nothing of its stream for this long loses it, with RESOURCE_EXHAUSTED
            where the client reads that; its place and its router are free again
        router_wait_seconds: how long a request waits for a router when none is connected and heard, within its
            deadline
        poll_seconds: how often the Front looks for routers
        connect_timeout_seconds: how long connecting to a router may take
        connection_age_seconds: age of a connection at which its client is told to reconnect (GOAWAY), while its calls
            continue; 0 is never, or a little below `cluster.drain_notice_seconds` if that is set: when a drain then
            refuses new calls, clients that load balancers send elsewhere are no longer connected here
        link_silence_seconds: a router that sends nothing for this long is not ready: its streams go on at another
            one, or wait for it for `router_wait_seconds` more if there is none
        max_resubmits: how often a request may be resubmitted to another router after its own was lost
        checksum: whether frames to routers carry a checksum; in a cluster `experts.checksum` decides
        tls_cert: certificate chain; if set, API and live page accept TLS only; reloaded when it changes
        tls_key: private key of tls_cert; reloaded when it changes
        tls_client_ca: authority that must have issued the client certificates (mutual TLS); reloaded when it changes
        tokens_file: callers must send a token of this file (`expertmesh token` creates them); reloaded when it changes.
            The metrics page never asks for a token: it has counts and no prompts
        cache_scope: between whose requests the work on a common beginning of prompts is shared. `caller`: only between
            those of one token, without tokens of one connection, so that nobody learns from an answer's time what
            others have sent. `server`: between all. `auto`: `caller` if tokens_file is set, else `server`
        api_key: a token that callers must send, or one of tokens_file; better in EXPERTMESH_API_KEY, since files and
            command lines can be read. Its role is inference beside a tokens_file, else admin: nobody else could be one
        chat_template: a file whose chat template replaces the checkpoint's
        chat_template_kwargs: variables for the chat template, a JSON object such as {"enable_thinking": false}; a
            request's own override them
        reasoning_parser: what takes the reasoning out of a chat's answer; `auto` chooses by the model's family and its
            chat template, `none` leaves it in the text
        tool_parser: what takes tool calls out of a chat's answer, likewise
        allow_unauthenticated: allow addresses other than loopback without a tokens file: everyone who can reach the
            port may then use everything
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
    slow_reader_seconds: Seconds = 30.0
    router_wait_seconds: SecondsOrZero = 30.0
    poll_seconds: Seconds = 1.0
    connect_timeout_seconds: Seconds = 5.0
    connection_age_seconds: SecondsOrZero = 0.0
    link_silence_seconds: Seconds = 3.0
    max_resubmits: Times = 3
    checksum: bool = False
    tls_cert: Annotated[str, setting(description="a PEM file")] = ""
    tls_key: Annotated[str, setting(description="a PEM file")] = ""
    tls_client_ca: Annotated[str, setting(description="a PEM file")] = ""
    tokens_file: FilePath = ""
    cache_scope: Literal["auto", "caller", "server"] = "auto"
    # In no log and no traceback.
    api_key: Text = field(default="", repr=False)
    chat_template: FilePath = ""
    chat_template_kwargs: Annotated[str, setting(description="a JSON object")] = ""
    reasoning_parser: Text = "auto"
    tool_parser: Text = "auto"
    allow_unauthenticated: bool = False

    def __post_init__(self) -> None:
        check_settings("front", self)
        self._check_security()
        self.template_kwargs  # noqa: B018, it is checked

    @property
    def authenticates(self) -> bool:
        """Whether callers must send a token."""
        return bool(self.tokens_file or self.api_key)

    @property
    def cache_by_caller(self) -> bool:
        """Whether callers share no cached prefixes; see `cache_scope`."""
        return self.cache_scope == "caller" or (self.cache_scope == "auto" and bool(self.tokens_file))

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """The variables of `chat_template_kwargs`.

        Raises:
            ChatFieldError: they are no JSON object, or name what no variable can be.
        """
        return template_kwargs_of(self.chat_template_kwargs, "front.chat_template_kwargs")

    def _check_security(self) -> None:
        # A header has no other characters. The key itself is not shown.
        if not all("!" <= character <= "~" for character in self.api_key):
            raise ValueError("front.api_key must be printable ASCII without spaces")
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
        return self.authenticates or self.allow_unauthenticated or is_loopback(host)


def _open_door(key: str, host: str) -> str:
    return (
        f"front.{key} is {host!r}, which others can reach, and front.tokens_file is not set: set it, "
        "or front.api_key, or front.allow_unauthenticated: true to let everyone who reaches the port use everything"
    )


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or `localhost`; other names are not resolved and count as none."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

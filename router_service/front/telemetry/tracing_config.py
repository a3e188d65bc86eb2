"""The settings of tracing."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from experts.host.bounds import Seconds, check_settings, setting


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Traces by OpenTelemetry, sent by OTLP over gRPC.

    Headers for the collector (credentials) come from the environment's OTEL_EXPORTER_OTLP_HEADERS alone.

    Args:
        endpoint: the collector; https encrypts; empty traces nothing
        sample_ratio: share of the requests that are traced; one whose traceparent says so always is, or never
        service_name: the spans' service.name
        queue_size: spans that wait to be sent; when a collector does not keep up, further ones are dropped
        export_timeout_seconds: how long sending a batch may take, retries included, before it is dropped
    """

    endpoint: Annotated[str, setting(said="empty, http://HOST:PORT or https://HOST:PORT")] = ""
    sample_ratio: Annotated[float, setting(ge=0, le=1)] = 1.0
    service_name: Annotated[str, setting(said="not empty")] = "expertmesh"
    queue_size: Annotated[int, setting("spans", ge=1)] = 2048
    export_timeout_seconds: Seconds = 5.0

    def __post_init__(self) -> None:
        check_settings("tracing", self)
        if self.endpoint:
            _check_endpoint(self.endpoint)
        if not self.service_name:
            raise ValueError("tracing.service_name must not be empty")


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if not good or parts.path not in ("", "/") or parts.username is not None:
        raise ValueError(f"tracing.endpoint is {endpoint!r}, it must be http://HOST:PORT or https://HOST:PORT")

"""The settings of tracing."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from experts.host.bounds import Seconds, check_settings, setting


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """OpenTelemetry traces, exported by OTLP over gRPC.

    Headers for the collector (credentials) come only from the environment variable OTEL_EXPORTER_OTLP_HEADERS.

    Args:
        endpoint: URL of the collector; https encrypts; empty turns tracing off
        sample_ratio: fraction of requests that are traced; a request with a traceparent follows its sampling flag
        service_name: service.name of the spans
        queue_size: spans waiting to be exported; when the collector does not keep up, further ones are dropped
        export_timeout_seconds: how long exporting a batch may take, including retries, before it is dropped
    """

    endpoint: Annotated[str, setting(description="empty, http://HOST:PORT or https://HOST:PORT")] = ""
    sample_ratio: Annotated[float, setting(ge=0, le=1)] = 1.0
    service_name: Annotated[str, setting(description="not empty")] = "expertmesh"
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

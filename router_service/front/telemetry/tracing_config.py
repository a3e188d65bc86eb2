"""The settings of tracing."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Traces by OpenTelemetry, sent by OTLP over gRPC.

    Headers for the collector (credentials) come from the environment's OTEL_EXPORTER_OTLP_HEADERS alone.

    Args:
        endpoint: the collector; https encrypts; empty traces nothing [-; empty, http://HOST:PORT or https://HOST:PORT]
        sample_ratio: share of the requests that are traced; one whose traceparent says so always is, or never
            [-; 0 to 1]
        service_name: the spans' service.name [-; not empty]
        queue_size: spans that wait to be sent; when a collector does not keep up, further ones are dropped
            [spans; at least 1]
        export_timeout_seconds: how long sending a batch may take, retries included, before it is dropped
            [seconds; over 0]
    """

    endpoint: str = ""
    sample_ratio: float = 1.0
    service_name: str = "expertmesh"
    queue_size: int = 2048
    export_timeout_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.endpoint:
            _check_endpoint(self.endpoint)
        if not 0 <= self.sample_ratio <= 1:
            raise ValueError(f"tracing.sample_ratio is {self.sample_ratio}, it must be from 0 to 1")
        if not self.service_name:
            raise ValueError("tracing.service_name must not be empty")
        if self.queue_size < 1:
            raise ValueError(f"tracing.queue_size is {self.queue_size}, it must be at least 1")
        if not self.export_timeout_seconds > 0:
            raise ValueError(f"tracing.export_timeout_seconds is {self.export_timeout_seconds}, it must be over 0")


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if not good or parts.path not in ("", "/") or parts.username is not None:
        raise ValueError(f"tracing.endpoint is {endpoint!r}, it must be http://HOST:PORT or https://HOST:PORT")

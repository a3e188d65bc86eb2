"""Opens the tracer if tracing is on. OpenTelemetry is imported only then, because it is an optional dependency."""

from typing import TYPE_CHECKING

from experts.host.watched_thread import ThreadWatch
from router_service.front.telemetry.tracing_config import TracingConfig

if TYPE_CHECKING:
    from router_service.front.telemetry.spans import Tracer


def open_tracer(config: TracingConfig, model: str, threads: ThreadWatch | None = None) -> "Tracer | None":
    """Return a tracer of requests to `model`, None if tracing is off. `threads` are those of the process.

    Raises:
        ValueError: the extra `tracing` is not installed.
    """
    if not config.endpoint:
        return None
    check_installed(config)
    from router_service.front.telemetry.spans import Tracer

    return Tracer(config, model, threads)


def check_installed(config: TracingConfig) -> None:
    """Check that OpenTelemetry is installed, if tracing is on.

    Raises:
        ValueError: it is not.
    """
    if not config.endpoint:
        return
    try:
        import router_service.front.telemetry.spans  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"tracing.endpoint needs {error.name}: pip install 'expertmesh[tracing]'") from error

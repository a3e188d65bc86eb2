"""The Front's metrics of requests. Names and meanings are a contract with dashboards and alerts."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from experts.host.watched_task import TaskWatch
from experts.host.watched_thread import ThreadWatch
from router_service.front.telemetry.request_record import FINISH_NAMES, RequestListener, RequestRecord
from router_service.front.telemetry.watch_failures import WatchFailures

# vLLM's buckets as well as its names, so that its dashboards can be used.
FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1),
    *(2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 40)
REQUEST_BUCKETS = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
STAGE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, *REQUEST_BUCKETS[2:])
CODES = ("CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE")


class FrontMetrics:
    """The Front's series in a registry of their own, labelled with the model; `routers` is the configured number.

    `watches` have the threads and tasks of the process.
    """

    def __init__(self, model: str, routers: int = 1, watches: Iterable[ThreadWatch | TaskWatch] = ()) -> None:
        self.registry = CollectorRegistry()
        self.model = model
        self.first_token = self._histogram("time_to_first_token", "From a request's arrival", FIRST_TOKEN_BUCKETS)
        self.inter_token = self._histogram("inter_token_latency", "Between two tokens of a stream", TOKEN_BUCKETS)
        self.request = self._histogram("e2e_request_latency", "A whole request that succeeded", REQUEST_BUCKETS)
        self.queue = self._histogram("request_queue_time", "Waiting for the first step", STAGE_BUCKETS)
        self.prefill = self._histogram("request_prefill_time", "From the first step to the first token", STAGE_BUCKETS)
        self.decode = self._histogram("request_decode_time", "From the first token to the last", STAGE_BUCKETS)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that got a token")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated")
        self.routers_linked = self._gauge("routers_linked", "Routers that this Front is connected to")
        # A router that never becomes ready is listed nowhere: only a comparison with this number shows it.
        self._gauge("routers_configured", "Routers that are configured").set(routers)
        self._success = self._labelled("request_success", "Requests that ended in an answer", "finished_reason")
        self._failures = self._labelled("request_failures", "Requests that ended in an error", "code")
        self._refused = self._labelled("requests_refused", "Calls refused before they were served", "reason")
        self.registry.register(WatchFailures(model, watches))
        # Start at 0, or a rate would miss the first of each.
        for reason in FINISH_NAMES.values():
            self._success.labels(model, reason)
        for code in CODES:
            self._failures.labels(model, code)

    def succeeded(self, reason: str) -> None:
        """Count an answer by its finish reason."""
        self._success.labels(self.model, reason).inc()

    def failed(self, code: str) -> None:
        """Count an error by its gRPC status."""
        self._failures.labels(self.model, code).inc()

    def refused(self, reason: str) -> None:
        """Count a refused call by the reason."""
        self._refused.labels(self.model, reason).inc()

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"expertmesh_{name}_seconds", text, ["model"], registry=self.registry, buckets=buckets)
        return family.labels(self.model)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"expertmesh_{name}", text, ["model"], registry=self.registry).labels(self.model)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"expertmesh_{name}_total", text, ["model"], registry=self.registry).labels(self.model)

    def _labelled(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"expertmesh_{name}_total", text, ["model", label], registry=self.registry)


class RequestMetrics(RequestListener):
    """Observes each request in the metrics."""

    def __init__(self, metrics: FrontMetrics) -> None:
        self._metrics = metrics

    def tokens(self, record: RequestRecord, count: int, since: float | None) -> None:
        """Observe the times of tokens; several in one output share the time since the last output."""
        at = record.answer.last
        assert at is not None
        self._metrics.generation_tokens.inc(count)
        if since is None:
            self._metrics.first_token.observe(at - record.began)
            self._metrics.prompt_tokens.inc(record.prompt_tokens)
        else:
            for _ in range(count):
                self._metrics.inter_token.observe((at - since) / count)

    def finished(self, record: RequestRecord) -> None:
        """Count an answer and observe its times."""
        timings = record.timings
        self._metrics.succeeded(record.finish)
        self._metrics.request.observe(record.seconds)
        self._metrics.queue.observe(timings.queue_seconds)
        self._metrics.prefill.observe(timings.prefill_seconds)
        self._metrics.decode.observe(timings.decode_seconds)

    def failed(self, record: RequestRecord) -> None:
        """Count an error."""
        self._metrics.failed(record.code)

"""One span per request with children queue, prefill and decode, by OpenTelemetry's conventions for generative AI.

No attribute holds a prompt or generated text.
"""

import time
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from experts.host.watched_thread import ThreadWatch
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import Progress, RequestListener, RequestRecord
from router_service.front.telemetry.tracing_config import TracingConfig
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import StepSummary, Timings

BATCH_SPANS = 512
SCHEDULE_SECONDS = 1.0
LAST_FLUSH_SECONDS = 2.0
MAX_EVENTS = 64
EVENT = "expertmesh.step"
PROVIDER = "expertmesh"
Summaries = Sequence[tuple[float, StepSummary]]


class Tracer:
    """Starts the spans of requests, and exports ended ones from a bounded queue on a thread of its own.

    If the collector is unreachable, only spans that exceed the queue are lost.
    """

    def __init__(self, config: TracingConfig, model: str, threads: ThreadWatch | None = None) -> None:
        self._threads = threads or ThreadWatch()
        self._model = model
        self._place: dict[str, AttributeValue] = {}
        timeout_s = config.export_timeout_seconds
        self._exporter = OTLPSpanExporter(config.endpoint, config.endpoint.startswith("http:"), timeout=timeout_s)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
            resource=Resource({"service.name": config.service_name}),
            # `close` does it, within a bound.
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=config.queue_size,
                schedule_delay_millis=SCHEDULE_SECONDS * 1e3,
                # The SDK refuses batches larger than the queue.
                max_export_batch_size=min(BATCH_SPANS, config.queue_size),
            )
        )
        self._tracer = self._provider.get_tracer("expertmesh")
        self._propagator = TraceContextTextMapPropagator()

    def serves_at(self, host: str, port: int) -> None:
        """Set the server's address in the attributes of spans from now on."""
        self._place = {"server.address": host, "server.port": port}

    def begin(self, request: pb.GenerateRequest, request_id: str, metadata: Mapping[str, str]) -> "RequestSpans | None":
        """Start the span of a request as a child of the caller's `traceparent`; None if it is not sampled."""
        operation = "chat" if request.HasField("chat") else "text_completion"
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model,
            "gen_ai.response.id": request_id,
        }
        parent = self._propagator.extract(metadata)
        name, attributes = f"{operation} {self._model}", attributes | self._place
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        return RequestSpans(self._tracer, span) if span.is_recording() else None

    def close(self) -> None:
        """Export the spans that wait, for at most two seconds."""
        flush = self._threads.start("last spans", self._provider.force_flush)
        flush.join(LAST_FLUSH_SECONDS)
        self._exporter.shutdown()  # before the provider: it ends the retries that the provider would wait for
        self._provider.shutdown()


class RequestSpans(RequestListener):
    """The spans of one sampled request. Times are in the event loop's seconds, which are the monotonic clock's."""

    def __init__(self, tracer: OtelTracer, root: Span) -> None:
        self._tracer = tracer
        self._root = root
        self._begun = time.monotonic()
        # Taken once, so that a step of the wall clock cannot move the children against each other.
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._summaries: list[tuple[float, StepSummary]] = []

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._root.get_span_context().trace_id:032x}"

    def submitted(self, record: RequestRecord) -> None:
        """Set the request's attributes, with all defaults filled in."""
        assert record.submit is not None
        sampling = record.submit.sampling
        self._root.set_attributes(
            {
                "gen_ai.request.max_tokens": sampling.max_tokens,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.top_p": sampling.top_p,
                "gen_ai.request.top_k": sampling.top_k,
                "gen_ai.request.seed": sampling.seed,
                "gen_ai.usage.input_tokens": record.prompt_tokens,
            }
        )

    def arrived(self, record: RequestRecord, arrival: Arrival) -> None:  # noqa: ARG002
        """Keep the summary of a step."""
        if arrival.output.summary is not None and len(self._summaries) < MAX_EVENTS:
            self._summaries.append((arrival.at, arrival.output.summary))

    def finished(self, record: RequestRecord) -> None:
        """End all spans of an answer."""
        self._root.set_attribute("gen_ai.response.finish_reasons", record.finishes)
        if len(record.finishes) > 1:
            self._root.set_attribute("gen_ai.request.choice.count", len(record.finishes))
        self._end(record.answer.tokens, record.received)

    def failed(self, record: RequestRecord) -> None:
        """End all spans of a failed request."""
        self._root.set_attribute("error.type", record.code)
        self._root.set_status(Status(StatusCode.ERROR))
        self._end(record.received.tokens, record.received)

    def _end(self, tokens: int, received: Progress) -> None:
        self._root.set_attribute("gen_ai.usage.output_tokens", tokens)
        if received.timings is not None and received.first is not None and received.last is not None:
            self._add_children(received.timings, received.first, received.last)
        self._root.end()

    def _add_children(self, timings: Timings, first: float, last: float) -> None:
        """Add a span for each of the router's durations, such that decode ends with the last token received."""
        decode = last - (timings.decode_seconds or last - first)
        prefill = decode - timings.prefill_seconds
        self._child("queue", prefill - timings.queue_seconds, prefill)
        self._child("prefill", prefill, decode)
        self._child("decode", decode, last, self._summaries)

    def _child(
        self, name: str, begun: float, ended: float, summaries: Sequence[tuple[float, StepSummary]] = ()
    ) -> None:
        begun = max(begun, self._begun)  # the loop's clock may be a millisecond behind
        span = self._tracer.start_span(name, set_span_in_context(self._root), start_time=self._wall(begun))
        for at, summary in summaries:
            span.add_event(EVENT, _attributes(summary), self._wall(at))
        span.end(self._wall(max(begun, ended)))

    def _wall(self, at: float) -> int:
        return int(at * 1e9) + self._wall_ns


def _attributes(summary: StepSummary) -> dict[str, AttributeValue]:
    return {f"{EVENT}.{name}": getattr(summary, name) for name in summary.__struct_fields__}

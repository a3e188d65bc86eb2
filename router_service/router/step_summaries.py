"""What steps cost, for the traces of streams that are sampled: now and then one of a stream's events carries it."""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, replace

from experts.phase import Phase
from experts.trips import TripCalls
from router_service.engine.engine import StepRecord
from router_service.engine.request import Event
from router_service.engine.stage import Stage
from router_service.protocol.messages import StepSummary

# Of one stream; traces are looked at by people.
INTERVAL_NS = 10**9
MAX_SUMMARIES = 64
# A shard is busy from its question's sending to its answer's coming; packing and adding are the router's.
BUSY = (Phase.DISPATCH, Phase.QUEUE, Phase.COMPUTE, Phase.COMBINE)


@dataclass(slots=True)
class Stream:
    """A traced stream: when it may have its next summary, None before its first token; how many it may still have."""

    due_ns: int | None = None
    left: int = MAX_SUMMARIES


class StepSummaries:
    """Driven by the engine's thread. While no stream is traced, a step costs two calls that do nothing."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._record: StepRecord | None = None

    def follow(self, key: int, alive: Container[int]) -> None:
        """Trace a stream from now on, and forget those that are no longer `alive`."""
        self._streams = {other: stream for other, stream in self._streams.items() if other in alive}
        self._streams[key] = Stream()

    def note(self, record: StepRecord) -> None:
        """A step was run; the next events are its."""
        self._record = record if self._streams else None

    def attach(self, events: list[Event], now_ns: int) -> list[Event]:
        """Return `events`, those of streams that are due with a summary. A stream's first token is prefill's."""
        record, self._record = self._record, None
        if record is None:
            return events
        due = {event.key for event in events if event.key in self._streams and self._is_due(event.key, now_ns)}
        if not due:
            return events
        summary = summary_of(record)
        return [replace(event, summary=summary) if event.key in due else event for event in events]

    def _is_due(self, key: int, now_ns: int) -> bool:
        stream = self._streams[key]
        if stream.due_ns is None:
            stream.due_ns = now_ns
            return False
        if not stream.left or now_ns < stream.due_ns:
            return False
        stream.due_ns, stream.left = now_ns + INTERVAL_NS, stream.left - 1
        return True


def summary_of(record: StepRecord) -> StepSummary:
    """Add up a step's calls; see `StepSummary`."""
    trips, stages = record.trace.trips, record.trace.stages_ns
    busy = Counter[int]()
    for trip in trips:
        for call in trip.calls:
            busy[call.shard] += sum(call.ns(phase) for phase in BUSY)
    exposed = sum(trip.exposed_ns for trip in trips)
    computed = TripCalls(trips).exposed_compute_ns()
    return StepSummary(
        seconds=record.duration_ns / 1e9,
        exposed_seconds=exposed / 1e9,
        communication_share=(exposed - computed + stages[Stage.PACK] + stages[Stage.REDUCE])
        / max(1, record.duration_ns),
        slowest_shard=max(busy, key=lambda shard: busy[shard], default=-1),
        rows=sum(call.rows for trip in trips for call in trip.calls),
        tokens=record.prompt_tokens + record.decode_tokens,
    )

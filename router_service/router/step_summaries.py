"""Summaries of steps for traced streams: about once a second one of a stream's events carries its step's summary."""

from collections import Counter
from dataclasses import replace

from experts.timing.phase import Phase
from experts.timing.trips import TripCalls
from router_service.engine.request import Event, Request, SummaryBudget
from router_service.engine.request_table import RequestTable
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from router_service.protocol.messages import StepSummary

# Of one stream: traces are read by people, who can use no more.
INTERVAL_NS = 10**9
MAX_SUMMARIES = 64
# A shard is charged from the sending of the call to the receipt of the reply; pack and reduce are the router's work.
BUSY = (Phase.DISPATCH, Phase.QUEUE, Phase.COMPUTE, Phase.COMBINE)


class StepSummaries:
    """Adds summaries to events, on the engine's thread; each request has its own budget."""

    def __init__(self, requests: RequestTable) -> None:
        self._requests = requests
        self._record: StepRecord | None = None

    def follow(self, request: Request) -> None:
        """Give a request a budget of summaries."""
        request.summaries = SummaryBudget(MAX_SUMMARIES)

    def note(self, record: StepRecord) -> None:
        """Keep the record of the step whose events come next."""
        self._record = record

    def attach(self, events: list[Event], now_ns: int) -> list[Event]:
        """Return `events`, with a summary in those of streams that are due. A stream's first token never has one."""
        record, self._record = self._record, None
        if record is None:
            return events
        # Scores and routing of a prompt come before its first token, in events of their own.
        due = {event.key for event in events if event.token is not None and self._is_due(event.key, now_ns)}
        if not due:
            return events
        summary = summary_of(record)
        return [_with(summary, event) if event.key in due else event for event in events]

    def _is_due(self, key: int, now_ns: int) -> bool:
        request = self._requests.get(key)
        if request is None or (budget := request.summaries) is None:
            return False
        # The first token belongs to the span of prefill; summaries are events of the span of decode.
        if budget.due_ns is None:
            budget.due_ns = now_ns
            return False
        if not budget.left or now_ns < budget.due_ns:
            return False
        budget.due_ns, budget.left = now_ns + INTERVAL_NS, budget.left - 1
        return True


def _with(summary: StepSummary, event: Event) -> Event:
    return event if event.token is None else replace(event, summary=summary)


def summary_of(record: StepRecord) -> StepSummary:
    """Sum up a step's calls; see `StepSummary`."""
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

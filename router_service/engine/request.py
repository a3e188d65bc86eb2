"""A request inside a router: its one record, and what a step says of it to the thread that publishes."""

from collections.abc import Container
from dataclasses import dataclass, field

from router_service.engine.scheduler import Sequence
from router_service.protocol.messages import (
    LayerRouting,
    SamplingParams,
    StepSummary,
    StreamFailure,
    Timings,
    TokenLogprobs,
)

# No Front has this number: what the router asks of itself.
OURSELVES = 0


@dataclass(slots=True)
class SummaryBudget:
    """Of a traced stream: when its next summary is due, None before its first token; how many it may still have."""

    left: int
    due_ns: int | None = None


@dataclass(slots=True)
class Request:
    """One stream of one Front: all that a router knows of it. Times are seconds of the monotonic clock, 0 while it has
    not happened.

    `prompt_length` tokens of the sequence are the prompt's. `sequence` is what the scheduler keeps of it; `tokens` is
    the sequence's own list, shared. `ended` means that its last event is made; `summaries` is None unless it is traced.
    """

    key: int
    front: int
    stream: int
    request_id: str
    params: SamplingParams
    tokens: list[int]
    prompt_length: int
    return_routing: bool
    arrived: float
    deadline: float | None = None
    scheduled: float = 0.0
    first_token: float = 0.0
    stalled_since: float = 0.0
    stalled_by: str = ""
    return_scores: bool = False
    routing: list[list[LayerRouting]] = field(default_factory=list)
    summaries: SummaryBudget | None = None
    ended: bool = False
    sequence: Sequence = field(init=False)

    def __post_init__(self) -> None:
        max_length = self.prompt_length + self.params.max_tokens
        self.sequence = Sequence(key=self.key, tokens=self.tokens, max_length=max_length)

    @property
    def generated(self) -> int:
        """Tokens drawn so far, by this router or one before it."""
        return len(self.tokens) - self.prompt_length

    def finish_after(self, token: int, eos_token_ids: Container[int]) -> str | None:
        """Why the request is complete with `token`, the last of its tokens; None if it is not."""
        params = self.params
        if token in params.stop_token_ids or (token in eos_token_ids and not params.ignore_eos):
            return "stop"
        return "length" if self.generated >= params.max_tokens else None

    def next_event(self, token: int, logprobs: TokenLogprobs | None, finish: str | None, now: float) -> "Event":
        """What to say of a token that was drawn at `now`, with the routing that has come together since the last."""
        first = not self.first_token
        self.first_token = self.first_token or now
        routing, self.routing = self.routing, []
        return Event(
            key=self.key,
            front=self.front,
            stream=self.stream,
            token=token,
            logprobs=logprobs,
            routing=routing,
            finish=finish,
            timings=self.timings(now) if first or finish is not None else None,
        )

    def timings(self, now: float) -> Timings:
        """Where its time went until `now`."""
        scheduled = self.scheduled or now
        first = self.first_token or now
        return Timings(
            queue_seconds=scheduled - self.arrived,
            prefill_seconds=max(0.0, first - scheduled),
            decode_seconds=now - first,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A stream's share of a step, before anything is packed: `finish` or `failure` in the last one."""

    key: int
    front: int
    stream: int
    token: int | None
    logprobs: TokenLogprobs | None = None
    routing: list[list[LayerRouting]] | None = None
    finish: str | None = None
    failure: StreamFailure | None = None
    timings: Timings | None = None
    summary: StepSummary | None = None

"""A request inside a router, and what a step says of it to the thread that publishes."""

from dataclasses import dataclass, field

from router_service.protocol.messages import (
    LayerRouting,
    SamplingParams,
    StepSummary,
    StreamFailure,
    Timings,
    TokenLogprobs,
)


@dataclass(slots=True)
class Request:
    """One stream of one Front. Times are seconds of the monotonic clock, 0 while it has not happened.

    `prompt_length` tokens of the sequence are the prompt's; `tokens` is the scheduler's own list, shared.
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

    @property
    def generated(self) -> int:
        """Tokens drawn so far, by this router or one before it."""
        return len(self.tokens) - self.prompt_length

    def timings(self, now: float) -> Timings:
        """Where its time went until `now`."""
        scheduled = self.scheduled or now
        first = self.first_token or now
        return Timings(scheduled - self.arrived, max(0.0, first - scheduled), now - first)


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

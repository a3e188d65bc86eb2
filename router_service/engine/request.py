"""A request inside a router, and the events that a step makes of it."""

from collections.abc import Container
from dataclasses import dataclass, field

from router_service.engine.routed_rows import RoutedRows
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.scheduling.sequence import Sequence
from router_service.protocol.fallback import Fallback
from router_service.protocol.messages import (
    SamplingParams,
    StepSummary,
    StreamFailure,
    Timings,
    TokenLogprobs,
)

# The Front number of the router's own requests (`SelfTest`); real Fronts are numbered from 1.
OURSELVES = 0
# Prompt log-probabilities in an event, which is not divided further: with 20 best tokens each about 0.2 MB.
SCORES_OF_EVENT = 256


@dataclass(slots=True)
class SummaryBudget:
    """A traced stream's summaries: when the next is due (None before the first token), and how many are left."""

    left: int
    due_ns: int | None = None


@dataclass(slots=True)
class Request:
    """One stream of one Front: all that a router knows of it. Times are seconds of the monotonic clock, 0 if not yet.

    The first `prompt_length` tokens are the prompt's. `sequence` is the scheduler's view of the request and `row` the
    sampler's; both share the list `tokens`. `priority`, `caller` and `cache_salt` are as in `Submit`. `ended` is set
    once the last event is made; `summaries` is None unless the request is traced. `scored` counts the prompt tokens
    whose log-probabilities were computed, `routed` the positions whose routing was traced, by this
    router or one before it.
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
    priority: int = 0
    caller: str = ""
    cache_salt: bytes = b""
    fallback: Fallback = Fallback.WAIT
    routing: list[RoutedRows] = field(default_factory=list)
    summaries: SummaryBudget | None = None
    ended: bool = False
    scored: int = 0
    routed: int = 0
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    sequence: Sequence = field(init=False)
    row: SampleRow = field(init=False)

    def __post_init__(self) -> None:
        self.row = SampleRow(self.params, self.tokens, self.prompt_length)
        max_length = self.prompt_length + self.params.max_tokens
        self.sequence = Sequence(
            key=self.key,
            tokens=self.tokens,
            max_length=max_length,
            salt=self.cache_salt,
            caller=self.caller,
            priority=self.priority,
        )
        self._limit_reuse()

    @property
    def generated(self) -> int:
        """Tokens drawn so far, by this router or one before it."""
        return len(self.tokens) - self.prompt_length

    @property
    def needs_all_logits(self) -> bool:
        """Whether prompt tokens are still to be scored, which takes the logits of the positions before them."""
        return self.params.prompt_logprobs is not None and self.scored < self.prompt_length

    def add_scores(self, scores: list[TokenLogprobs]) -> None:
        """Keep the log-probabilities of the next tokens of the prompt until `prompt_events`."""
        self.prompt_logprobs += scores
        self.scored += len(scores)
        self._limit_reuse()

    def add_routing(self, rows: RoutedRows) -> None:
        """Keep the routing of the next positions until the next event."""
        self.routing.append(rows)
        self.routed = rows.first + rows.count
        self._limit_reuse()

    def _limit_reuse(self) -> None:
        """What is found in the cache is not computed: it has neither routing nor logits to be returned."""
        wanted = [self.routed] if self.return_routing else []
        wanted += [max(0, self.scored - 1)] if self.needs_all_logits else []
        self.sequence.reusable = min(wanted, default=None)

    def prompt_events(self) -> "list[Event]":
        """Return events, without tokens, of the prompt's log-probabilities since the last call; mostly none."""
        if not self.prompt_logprobs:
            return []
        scores, self.prompt_logprobs = self.prompt_logprobs, []
        parts = (scores[start : start + SCORES_OF_EVENT] for start in range(0, len(scores), SCORES_OF_EVENT))
        return [Event(self.key, self.front, self.stream, token=None, prompt_logprobs=part) for part in parts]

    def finish_after(self, token: int, eos_token_ids: Container[int]) -> str | None:
        """Why the request ends with `token`, the last of its tokens ("stop" or "length"); None if it goes on."""
        params = self.params
        if token in params.stop_token_ids or (token in eos_token_ids and not params.ignore_eos):
            return "stop"
        matcher = self.row.matcher
        if matcher is not None and matcher.ends_itself and matcher.complete:
            return "stop"
        return "length" if self.generated >= params.max_tokens else None

    def next_event(
        self, token: int, logprobs: TokenLogprobs | None, finish: str | None, now: float, degraded: bool = False
    ) -> "Event":
        """Return the event of a token drawn at `now`, with the routing collected since the last event."""
        first = not self.first_token
        self.first_token = self.first_token or now
        return Event(
            key=self.key,
            front=self.front,
            stream=self.stream,
            token=token,
            logprobs=logprobs,
            routing=self._take_routing(),
            finish=finish,
            degraded=degraded,
            # With the first token too: a Front that ends the stream at a stop string never sees the last event.
            timings=self.timings(now) if first or finish is not None else None,
        )

    def routing_event(self) -> "Event | None":
        """Return an event of the routing collected since the last one, for a step that draws no token; mostly None."""
        if not self.routing:
            return None
        return Event(key=self.key, front=self.front, stream=self.stream, token=None, routing=self._take_routing())

    def timings(self, now: float) -> Timings:
        """Where its time went until `now`."""
        scheduled = self.scheduled or now
        first = self.first_token or now
        return Timings(
            queue_seconds=scheduled - self.arrived,
            prefill_seconds=max(0.0, first - scheduled),
            decode_seconds=now - first,
            cached_prompt_tokens=min(self.sequence.cached or 0, self.prompt_length),
        )

    def _take_routing(self) -> tuple[RoutedRows, ...]:
        routing, self.routing = tuple(self.routing), []
        return routing


@dataclass(frozen=True, slots=True)
class Event:
    """A stream's share of a step, not yet packed; the last one has `finish` or `failure`.

    One with `prompt_logprobs` has nothing else; one without a token, `finish` and `failure` has the routing of a part
    of the prompt. A `degraded` token's logits were not the whole model's; see `conclusion.degraded`.
    """

    key: int
    front: int
    stream: int
    token: int | None
    logprobs: TokenLogprobs | None = None
    routing: tuple[RoutedRows, ...] = ()
    finish: str | None = None
    failure: StreamFailure | None = None
    timings: Timings | None = None
    summary: StepSummary | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    degraded: bool = False

"""The main loop's body: schedule, forward, sample, say what happened. No threads and no sockets."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch

from experts.host.threads import ComputeThreads
from experts.pool import ExpertPool
from kernels.select import Ops
from router_service.engine.batch_builder import build_batch
from router_service.engine.forward import StepTrace, forward
from router_service.engine.guard import Guard
from router_service.engine.progress import Progress
from router_service.engine.request import Event, Request
from router_service.engine.routing_trace import scored_rows, trace_routing
from router_service.engine.sampler import Drawn, SampleRow, sample
from router_service.engine.scheduler import NeverFitsError, QueueFullError, ScheduledSequence, Scheduler, Sequence
from router_service.engine.stage import Stage
from router_service.engine.stall_log import log_back, log_lost
from router_service.models.backbone import Backbone
from router_service.models.step_batch import StepBatch
from router_service.protocol.messages import StreamFailure

log = logging.getLogger(__name__)

DEADLINE_MARGIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step for the statistics: nanoseconds, what it computed, its trace, the tag that shards know it by, whose."""

    duration_ns: int
    prompt_tokens: int
    decode_tokens: int
    trace: StepTrace
    tag: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """prefill, decode or mixed."""
        if self.prompt_tokens and self.decode_tokens:
            return "mixed"
        return "prefill" if self.prompt_tokens else "decode"


@dataclass(slots=True)
class Engine:
    """A model being served: requests go in, events come out. Driven by one thread.

    `progressed` tells whether the last step had anything to compute, `progress` when a layer of it was last done.

    Args:
        unavailable_wait_s: how long a request waits for a shard that is away before it fails with UNAVAILABLE.
        observe: called with the record of each step, when the step is over; its faults are `guard`'s.
    """

    backbone: Backbone
    pool: ExpertPool
    scheduler: Scheduler
    ops: Ops
    eos_token_ids: frozenset[int]
    unavailable_wait_s: float
    threads: ComputeThreads
    observe: Callable[[StepRecord], None] = lambda _: None
    requests: dict[int, Request] = field(default_factory=dict)
    progressed: bool = True
    guard: Guard = field(default_factory=Guard)
    progress: Progress = field(default_factory=Progress)
    _missing: set[int] = field(default_factory=set)
    _tags: "count[int]" = field(default_factory=lambda: count((secrets.randbits(31) << 32) + 1))

    def submit(self, request: Request) -> list[Event]:
        """Take a request in; the events are its refusal, if it is refused."""
        max_length = request.prompt_length + request.params.max_tokens
        try:
            self.scheduler.submit(Sequence(key=request.key, tokens=request.tokens, max_length=max_length))
        except (NeverFitsError, QueueFullError) as error:
            code = "INVALID_ARGUMENT" if isinstance(error, NeverFitsError) else "RESOURCE_EXHAUSTED"
            return [_failed(request, code, str(error))]
        self.requests[request.key] = request
        return []

    def cancel(self, key: int) -> None:
        """Forget a request; its blocks are free at once, nothing more is said of it."""
        self.requests.pop(key, None)
        self.scheduler.remove(key)

    def fail_all(self, code: str, message: str) -> list[Event]:
        """End every request: for a fault that is nobody's in particular.

        The scheduler begins anew: a sequence that the fault left in it would be nobody's, and fail every step.
        """
        events = [_failed(request, code, message) for request in self.requests.values()]
        self.requests.clear()
        self.scheduler.clear()
        return events

    def idle(self) -> bool:
        """Whether a step now would have nothing to do."""
        return not self.scheduler.has_work()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run one step; an empty schedule is a step without events.

        When something raises, what was said before stands, and all requests that have not ended fail.
        """
        events: list[Event] = []
        try:
            record = self._run(events)
        except Exception:
            log.exception("a step failed")
            return events + self.fail_all("INTERNAL", "the router's step failed, its log says why")
        if record is not None:
            with self.guard("observe"):
                self.observe(record)
        return events

    def _run(self, events: list[Event]) -> StepRecord | None:
        self._expire(time.monotonic(), events)
        self._resume()
        begun = time.monotonic_ns()
        scheduled = self.scheduler.schedule()
        self.progressed = bool(scheduled)
        if not scheduled:
            return None
        requests = self._note_scheduled(scheduled)
        batch = build_batch(scheduled, self.scheduler.blocks.block_size, self.backbone.cache.keys.device)
        trace = StepTrace()
        trace.scored_rows = scored_rows([self.requests[item.key] for item in scheduled], batch.segments)
        self.threads.use(len(batch.token_ids_T))
        self.pool.step = next(self._tags)
        trace.stages_ns[Stage.SCHEDULE] = time.monotonic_ns() - begun
        self._compute(scheduled, batch, trace, events)
        duration = time.monotonic_ns() - begun
        decoded = sum(1 for item in scheduled if item.start > 0)
        return StepRecord(
            duration_ns=duration,
            prompt_tokens=len(batch.token_ids_T) - decoded,
            decode_tokens=decoded,
            trace=trace,
            tag=self.pool.step,
            requests=requests,
        )

    def _compute(
        self, scheduled: list[ScheduledSequence], batch: StepBatch, trace: StepTrace, events: list[Event]
    ) -> None:
        logits_BV = forward(self.backbone, self.pool, self.ops, batch, trace, self.progress.move)
        begun = time.monotonic_ns()
        whole = [
            i for i, part in enumerate(batch.segments) if not trace.lost_T[part.start : part.start + part.length].any()
        ]
        if len(whole) < len(scheduled):
            self._stall([scheduled[i].key for i in range(len(scheduled)) if i not in whole], trace)
        if logits_BV is None or not whole:
            return
        picked_BV = logits_BV if len(whole) == len(scheduled) else logits_BV[whole]
        requests = [self.requests[scheduled[i].key] for i in whole]
        drawn = sample(picked_BV, [SampleRow(r.params, r.tokens, r.prompt_length) for r in requests])
        trace_routing(requests, [batch.segments[i] for i in whole], trace, self.pool.placement)
        now = time.monotonic()
        for request, draw in zip(requests, drawn, strict=True):
            self._advance(request, draw, now, events)
        trace.stages_ns[Stage.SAMPLE] += time.monotonic_ns() - begun

    def _advance(self, request: Request, drawn: Drawn, now: float, events: list[Event]) -> None:
        self.scheduler.advance(request.key, drawn.token)
        request.stalled_since, request.stalled_by = 0.0, ""
        first = not request.first_token
        request.first_token = request.first_token or now
        finish = self._finish(request, drawn.token)
        routing, request.routing = request.routing, []
        event = Event(
            key=request.key,
            front=request.front,
            stream=request.stream,
            token=drawn.token,
            logprobs=drawn.logprobs,
            routing=routing,
            finish=finish,
            timings=request.timings(now) if first or finish is not None else None,
        )
        if finish is not None:
            self._end(events, event)
        else:
            events.append(event)

    def _end(self, events: list[Event], event: Event) -> None:
        """Say a request's last word, then free its blocks: should that raise, no second word follows."""
        self.requests.pop(event.key, None)
        events.append(event)
        self.scheduler.remove(event.key)

    def _finish(self, request: Request, token: int) -> str | None:
        params = request.params
        if token in params.stop_token_ids or (token in self.eos_token_ids and not params.ignore_eos):
            return "stop"
        return "length" if request.generated >= params.max_tokens else None

    def _note_scheduled(self, scheduled: list[ScheduledSequence]) -> list[Request]:
        now = time.monotonic()
        requests = [self.requests[item.key] for item in scheduled]
        for request in requests:
            request.scheduled = request.scheduled or now
        return requests

    def _stall(self, keys: list[int], trace: StepTrace) -> None:
        reason = "; ".join(str(failure) for failure in trace.failures.values())
        if new := {shard: trace.failures[shard] for shard in trace.failures.keys() - self._missing}:
            with self.guard("stall_log"):
                log_lost(self.pool.step, new, [self.requests[key] for key in keys])
        self._missing |= trace.failures.keys()
        for key in keys:
            self.scheduler.stall(key)
            request = self.requests[key]
            request.stalled_since, request.stalled_by = request.stalled_since or time.monotonic(), reason

    def _resume(self) -> None:
        if self._missing and all(self.pool.transport.available(shard) for shard in self._missing):
            with self.guard("stall_log"):
                log_back(self._missing, self.requests.values())
            self._missing.clear()
            self.scheduler.resume()

    def _expire(self, now: float, events: list[Event]) -> None:
        """Fail what has waited too long; a stalled request says so while its caller still listens."""
        for request in list(self.requests.values()):
            if (event := self._overdue(request, now)) is not None:
                self._end(events, event)

    def _overdue(self, request: Request, now: float) -> Event | None:
        left = float("inf") if request.deadline is None else request.deadline - now
        if request.stalled_since:
            if now - request.stalled_since > self.unavailable_wait_s or left < DEADLINE_MARGIN_SECONDS:
                return _failed(request, "UNAVAILABLE", request.stalled_by)
        elif left < 0:
            return _failed(request, "DEADLINE_EXCEEDED", "the deadline passed before the last token")
        return None


def _failed(request: Request, code: str, message: str) -> Event:
    return Event(request.key, request.front, request.stream, None, failure=StreamFailure(code, message))

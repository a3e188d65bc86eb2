"""One step of the engine: schedule, forward, sample, return events. No threads and no sockets."""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import torch
from torch import Tensor

from experts.host.log import fields
from experts.host.threads import ComputeThreads
from experts.pool import ExpertPool
from kernels.select import Ops
from router_service.engine.failures import failed, overdue, refused
from router_service.engine.guard import Guard
from router_service.engine.progress import Progress
from router_service.engine.request import Event, Request
from router_service.engine.request_table import RequestTable
from router_service.engine.sampling.sampler import Drawn, sample
from router_service.engine.scheduling.scheduler import NeverFitsError, QueueFullError, ScheduledSequence, Scheduler
from router_service.engine.stalls import Stalls
from router_service.engine.step.batch_builder import build_batch
from router_service.engine.step.forward import StepTrace, forward
from router_service.engine.step.nonfinite import nonfinite_rows, origin, scrub
from router_service.engine.step.prompt_scores import score_prompts
from router_service.engine.step.routing_trace import scored_rows, trace_routing
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from router_service.models.backbone import Backbone
from router_service.models.step_batch import Segment, StepBatch

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Engine:
    """A model being served: requests go in, events come out. Driven by one thread.

    `progressed` says whether the last step had anything to compute, `progress` when its last layer completed. A Front's
    request stays in `requests` until its last event is published. `nonfinite_logits` counts requests that ended because
    the model's logits were not finite.

    Args:
        unavailable_wait_s: how long a request waits for an unavailable shard before it fails with UNAVAILABLE.
        observe: called with each step's record after the step; `guard` catches what it raises.
        clock: returns seconds; arrivals and deadlines are measured by it.
    """

    backbone: Backbone
    pool: ExpertPool
    scheduler: Scheduler
    ops: Ops
    eos_token_ids: frozenset[int]
    unavailable_wait_s: float
    threads: ComputeThreads
    observe: Callable[[StepRecord], None] = lambda _: None
    requests: RequestTable = field(default_factory=RequestTable)
    progressed: bool = True
    guard: Guard = field(default_factory=Guard)
    progress: Progress = field(default_factory=Progress)
    clock: Callable[[], float] = time.monotonic
    nonfinite_logits: int = 0
    _stalls: Stalls = field(init=False)
    # Tags start at random, so that log lines of different routers or lives of one do not share a tag.
    _tags: "count[int]" = field(default_factory=lambda: count((secrets.randbits(31) << 32) + 1))

    def __post_init__(self) -> None:
        self._stalls = Stalls(self.pool, self.scheduler, self.guard)

    def submit(self, request: Request) -> list[Event]:
        """Accept a request, or return the event that refuses it. If this raises, call `release`."""
        # First: a refused request has a last event too, and its publisher looks it up here.
        self.requests.add(request)
        try:
            self.scheduler.submit(request.sequence)
        except (NeverFitsError, QueueFullError) as error:
            self.requests.end(request)
            return [refused(request, error)]
        return []

    def cancel(self, key: int) -> None:
        """Drop a request and free its blocks at once; no further event is made for it."""
        self.requests.forget(key)
        self.scheduler.remove(key)

    def release(self, key: int) -> None:
        """End a request whose last event the caller makes; its blocks are free at once."""
        if (request := self.requests.get(key)) is not None:
            self.requests.end(request)
        self.scheduler.remove(key)

    def fail_all(self, code: str, message: str) -> list[Event]:
        """Fail every request, for a fault that cannot be attributed to one of them.

        The scheduler is cleared: a sequence left over from the fault would have no request, and fail every step.
        """
        failing = self.requests.alive()
        events = [failed(request, code, message) for request in failing]
        for request in failing:
            self.requests.end(request)
        self.scheduler.clear()
        return events

    def idle(self) -> bool:
        """Whether a step would have nothing to do now."""
        return not self.scheduler.has_work()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run one step and return its events, none if nothing is scheduled.

        If it raises inside, the events made so far are returned and all requests that have not ended fail.
        """
        events: list[Event] = []
        try:
            record = self._run(events)
        except Exception:
            log.exception("a step failed")
            return events + self.fail_all("INTERNAL", "the router's step failed, see its log")
        if record is not None:
            with self.guard("observe"):
                self.observe(record)
        return events

    def _run(self, events: list[Event]) -> StepRecord | None:
        # Before scheduling: an expired request must not cost a step, and its blocks can admit another.
        self._expire(self.clock(), events)
        self._stalls.resume(self.requests)
        begun = time.monotonic_ns()
        scheduled = self.scheduler.schedule()
        self.progressed = bool(scheduled)
        if not scheduled:
            return None
        requests = self._note_scheduled(scheduled)
        batch, trace = self._begin(scheduled, requests)
        trace.stages_ns[Stage.SCHEDULE] = time.monotonic_ns() - begun
        self._compute(requests, batch, trace, events)
        duration = time.monotonic_ns() - begun
        # A prompt runs as a whole, so an item that starts behind position 0 is a single decoding token.
        decoded = sum(1 for item in scheduled if item.start > 0)
        return StepRecord(
            duration_ns=duration,
            prompt_tokens=len(batch.token_ids_T) - decoded,
            decode_tokens=decoded,
            trace=trace,
            tag=self.pool.step,
            requests=requests,
        )

    def _begin(self, scheduled: list[ScheduledSequence], requests: list[Request]) -> tuple[StepBatch, StepTrace]:
        batch = build_batch(scheduled, self.scheduler.blocks.block_size, self.backbone.cache.device)
        trace = StepTrace()
        trace.scored_rows = scored_rows(requests, batch.segments)
        # With few rows one thread can be faster than all; which, was measured when the engine was built.
        self.threads.use(len(batch.token_ids_T))
        self.pool.step = next(self._tags)
        return batch, trace

    def _compute(self, requests: list[Request], batch: StepBatch, trace: StepTrace, events: list[Event]) -> None:
        score = partial(score_prompts, self.backbone.head, requests, batch.segments, trace)
        logits_BV = forward(self.backbone, self.pool, self.ops, batch, trace, self.progress.move, score)
        begun = time.monotonic_ns()
        whole = trace.whole(batch.segments)
        if len(whole) < len(requests):
            waiting = [request for row, request in enumerate(requests) if row not in whole]
            self._stalls.begin(waiting, trace.failures, self.clock())
        if logits_BV is None:
            return
        for row in set(whole).intersection(nonfinite_rows(logits_BV)):
            whole.remove(row)
            self._end_nonfinite(requests[row], batch.segments[row], events)
        if not whole:
            return
        for row in whole:
            events += requests[row].prompt_events()
        # Without lost tokens the logits need not be copied.
        picked_BV = logits_BV if len(whole) == len(requests) else logits_BV[whole]
        self._draw([requests[i] for i in whole], picked_BV, events, [batch.segments[i] for i in whole], trace)
        trace.stages_ns[Stage.SAMPLE] += time.monotonic_ns() - begun

    def _draw(
        self,
        requests: list[Request],
        logits_BV: Tensor,
        events: list[Event],
        segments: list[Segment],
        trace: StepTrace,
    ) -> None:
        """Draw a token for each request from its row of the logits, and append its event."""
        drawn = sample(logits_BV, [request.row for request in requests], self.eos_token_ids)
        trace_routing(requests, segments, trace, self.pool.placement)
        now = self.clock()
        for request, draw in zip(requests, drawn, strict=True):
            self._advance(request, draw, now, events)

    def _advance(self, request: Request, drawn: Drawn, now: float, events: list[Event]) -> None:
        self.scheduler.advance(request.key, drawn.token)
        # The wait for a shard is over; a later one has its whole time again.
        request.stalled_since, request.stalled_by = 0.0, ""
        finish = request.finish_after(drawn.token, self.eos_token_ids)
        event = request.next_event(drawn.token, drawn.logprobs, finish, now)
        if finish is not None:
            self._end(request, event, events)
        else:
            events.append(event)

    def _end(self, request: Request, event: Event, events: list[Event]) -> None:
        """Append a request's last event, then free its blocks: if that raises, no second last event follows."""
        self.requests.end(request)
        events.append(event)
        self.scheduler.remove(request.key)

    def _end_nonfinite(self, request: Request, segment: Segment, events: list[Event]) -> None:
        """End a request whose logits are not finite; the others of the step go on."""
        request.kv_valid = False
        self.nonfinite_logits += 1
        cache = self.backbone.cache
        where = origin(cache, self.backbone.spec.layers, segment)
        scrub(cache, segment)
        message = f"the model's logits are not finite at position {segment.context - 1}: {where}"
        log.error("%s", message, extra=fields(request_id=request.request_id))
        self._end(request, failed(request, "INTERNAL", message), events)

    def _note_scheduled(self, scheduled: list[ScheduledSequence]) -> list[Request]:
        now = self.clock()
        requests = [self.requests[item.key] for item in scheduled]
        for request in requests:
            request.scheduled = request.scheduled or now
        return requests

    def _expire(self, now: float, events: list[Event]) -> None:
        """Fail the requests that have waited too long; stalled ones shortly before their deadline."""
        for request in self.requests.alive():
            if (event := overdue(request, now, self.unavailable_wait_s)) is not None:
                self._end(request, event, events)

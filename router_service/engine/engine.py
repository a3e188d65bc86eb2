"""One step of the engine: schedule, forward, sample, return events. No threads and no sockets."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf

import torch

from experts.host.threads import ComputeThreads
from experts.pool import ExpertPool
from kernels.ops import Ops
from router_service.engine.conclusion import Conclusion
from router_service.engine.expiry import Expiry
from router_service.engine.failures import DEADLINE_MARGIN_SECONDS, failed, refused
from router_service.engine.guard import Guard
from router_service.engine.overlap import OverlapPolicy
from router_service.engine.progress import Progress
from router_service.engine.request import Event, Request
from router_service.engine.request_table import RequestTable
from router_service.engine.scheduling.limits import NeverFitsError
from router_service.engine.scheduling.queue_bounds import QueueFullError
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.stalls import Stalls
from router_service.engine.step.batch_builder import build_batch, joined_segments, step_shape
from router_service.engine.step.forward import StepTrace, forward
from router_service.engine.step.prompt_scores import score_prompts
from router_service.engine.step.routing_trace import scored_rows, wants_routing
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from router_service.models.backbone import Backbone
from router_service.models.step_batch import StepBatch

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Engine:
    """A model being served: requests go in, events come out. Driven by one thread.

    `progressed` says whether the last step had anything to compute, `progress` when its last layer completed. A Front's
    request stays in `requests` until its last event is published.

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
    overlap: OverlapPolicy = field(default_factory=lambda: OverlapPolicy("off"))
    observe: Callable[[StepRecord], None] = lambda _: None
    requests: RequestTable = field(default_factory=RequestTable)
    progressed: bool = True
    guard: Guard = field(default_factory=Guard)
    progress: Progress = field(default_factory=Progress)
    clock: Callable[[], float] = time.monotonic
    _stalls: Stalls = field(init=False)
    _expiry: Expiry = field(init=False)
    _conclusion: Conclusion = field(init=False)
    # Tags start at random, so that log lines of different routers or lives of one do not share a tag.
    _tags: "count[int]" = field(default_factory=lambda: count((secrets.randbits(31) << 32) + 1))

    def __post_init__(self) -> None:
        self.pool.on_wait(self.progress.move)
        self._stalls = Stalls(self.pool, self.scheduler, self.guard)
        self._expiry = Expiry(self.requests, self.scheduler)
        self._conclusion = Conclusion(
            backbone=self.backbone,
            scheduler=self.scheduler,
            requests=self.requests,
            eos_token_ids=self.eos_token_ids,
            clock=lambda: self.clock(),
        )

    @property
    def nonfinite_logits(self) -> int:
        """How many requests ended because the model's logits were not finite."""
        return self._conclusion.nonfinite_logits

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
        shape = step_shape(scheduled)
        batches, trace = self._begin(self.overlap.split(scheduled, shape), requests)
        trace.stages_ns[Stage.SCHEDULE] = time.monotonic_ns() - begun
        self._compute(scheduled, batches, trace, events)
        duration = time.monotonic_ns() - begun
        # A step that lost tokens says little of what one costs.
        if not trace.failures:
            self.scheduler.prefill.observe(shape, duration / 1e9)
            self.overlap.observe(duration / 1e9)
            self._expiry.note(shape.prefill_tokens, duration / 1e9)
        return StepRecord(
            duration_ns=duration,
            prompt_tokens=shape.prefill_tokens,
            decode_tokens=shape.decode_rows,
            trace=trace,
            tag=self.pool.step,
            requests=requests,
        )

    def _begin(
        self, parts: Sequence[Sequence[ScheduledSequence]], requests: list[Request]
    ) -> tuple[list[StepBatch], StepTrace]:
        groups = [storage.group for storage in self.backbone.cache.groups]
        size, device = self.scheduler.blocks.block_size, self.backbone.cache.device
        batches = [build_batch(part, size, groups, device) for part in parts]
        trace = StepTrace()
        trace.traced = wants_routing(requests)
        trace.scored_rows = scored_rows(requests, joined_segments(batches))
        # With few rows one thread can be faster than all; which, was measured when the engine was built.
        self.threads.use(max(len(batch.token_ids_T) for batch in batches))
        self.pool.step = next(self._tags)
        self.pool.deadline_s = self._deadline(requests)
        return batches, trace

    def _compute(
        self, scheduled: list[ScheduledSequence], batches: list[StepBatch], trace: StepTrace, events: list[Event]
    ) -> None:
        segments = joined_segments(batches)
        shares = self._conclusion.shares(scheduled, segments)
        score = partial(score_prompts, self.backbone.head, [share.request for share in shares], segments, trace)
        logits_LV = forward(self.backbone, self.pool, self.ops, batches, trace, self.progress.move, score)
        begun = time.monotonic_ns()
        complete = set(trace.complete(segments))
        self._stall([share.request for number, share in enumerate(shares) if number not in complete], trace)
        if logits_LV is not None:
            self._conclusion.apply([shares[number] for number in sorted(complete)], trace, logits_LV, events)
            trace.stages_ns[Stage.SAMPLE] += time.monotonic_ns() - begun

    def _stall(self, lost: list[Request], trace: StepTrace) -> None:
        """Stall the requests that have lost a token."""
        if lost:
            self._stalls.begin(lost, trace.failures, self.clock())

    def _deadline(self, requests: Sequence[Request]) -> float:
        """Until when a step of these is worth waiting for, on the pool's clock."""
        deadlines = [inf if request.deadline is None else request.deadline for request in requests]
        last = max(deadlines)
        # Who waits for a shard is to hear of it before its own time is over.
        left = inf if last == inf else last - self.clock()
        return self.pool.clock() + (left - DEADLINE_MARGIN_SECONDS if left > 2 * DEADLINE_MARGIN_SECONDS else left)

    def _note_scheduled(self, scheduled: list[ScheduledSequence]) -> list[Request]:
        now = self.clock()
        requests = [self.requests[item.key] for item in scheduled]
        for request in requests:
            request.scheduled = request.scheduled or now
        return requests

    def _expire(self, now: float, events: list[Event]) -> None:
        """Fail the requests that have waited too long, or can no longer be answered in time."""
        for request, event in self._expiry.expired(now, self.unavailable_wait_s):
            self._conclusion.end(request, event, events)

"""One step of the engine: schedule, forward, sample, return events. No sockets; threads only for what is structured."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf

import torch

from experts.host.threads import ComputeThreads
from experts.pool import ExpertPool
from kernels.ops import Ops
from router_service.engine.admission.constraints import Constraints
from router_service.engine.admission.submissions import Submissions
from router_service.engine.conclusion import Conclusion, Share
from router_service.engine.expiry import Expiry
from router_service.engine.failures import DEADLINE_MARGIN_SECONDS, failed
from router_service.engine.faults.apart import apart
from router_service.engine.faults.soundness import Soundness
from router_service.engine.guard import Guard
from router_service.engine.overlap import OverlapPolicy
from router_service.engine.progress import Progress
from router_service.engine.request import Event, Request
from router_service.engine.request_table import RequestTable
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.scheduling.step_cost import StepShape
from router_service.engine.stalls import Stalls
from router_service.engine.step.computation import Computation, Computed
from router_service.engine.step.fallbacks import WHOLE
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from router_service.models.backbone import Backbone
from router_service.protocol.fallback import Fallback

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
        default_fallback: of requests that name none.
        constraints: of requests whose answers must have a form.
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
    default_fallback: Fallback = Fallback.WAIT
    constraints: Constraints = field(default_factory=Constraints)
    _submissions: Submissions = field(init=False)
    _stalls: Stalls = field(init=False)
    _expiry: Expiry = field(init=False)
    _conclusion: Conclusion = field(init=False)
    _soundness: Soundness = field(default_factory=Soundness)
    _computation: Computation = field(init=False)

    def __post_init__(self) -> None:
        self.pool.on_wait(self.progress.move)
        self._submissions = Submissions(self.requests, self.scheduler, self.constraints)
        self._stalls = Stalls(self.pool, self.scheduler, self.guard)
        self._expiry = Expiry(self.requests, self.scheduler)
        self._computation = Computation(
            backbone=self.backbone,
            pool=self.pool,
            ops=self.ops,
            block_size=self.scheduler.blocks.block_size,
            threads=self.threads,
            split=lambda *step: self.overlap.split(*step),
            request_of=lambda item: self.requests[item.key],
            progressed=lambda: self.progress.move(),
            deadline_of=self._deadline,
        )
        self._conclusion = Conclusion(
            backbone=self.backbone,
            scheduler=self.scheduler,
            requests=self.requests,
            eos_token_ids=self.eos_token_ids,
            clock=lambda: self.clock(),
            constraints=self.constraints,
        )

    @property
    def nonfinite_logits(self) -> int:
        """How many requests ended because the model's logits were not finite."""
        return self._conclusion.nonfinite_logits

    @property
    def fallback_tokens(self) -> Counter[str]:
        """Tokens that met experts without a living copy, by policy; see `Conclusion`."""
        return self._conclusion.fallback_tokens

    @property
    def request_faults(self) -> int:
        """How many requests ended because something raised for them."""
        return self._conclusion.faults

    @property
    def sound(self) -> bool:
        """Whether it can compute; False once several steps and a proof have failed for whatever it was given."""
        return self._soundness.sound

    def submit(self, request: Request) -> list[Event]:
        """Accept a request, or return the event that refuses it. If this raises, call `release`.

        One whose answer must have a form is queued once its grammar is compiled, by a later step.
        """
        return self._submissions.submit(request)

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
        """Whether a step would have nothing to do now, nor soon."""
        return not self.scheduler.has_work() and not self.constraints.compiling

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run one step and return its events, none if nothing is scheduled.

        A request for which something raises fails alone. If something raises that is of no request, the events made so
        far are returned and all requests that have not ended fail.
        """
        events: list[Event] = []
        records: list[StepRecord] = []
        try:
            self._run(events, records)
        except Exception:
            log.exception("a step failed")
            events += self.fail_all("INTERNAL", "the router's step failed, see its log")
            self._soundness.failed()
        for record in records:
            with self.guard("observe"):
                self.observe(record)
        events = self._soundness.without_proof(events)
        with self.guard("proof"):
            self._prove()
        return events

    def _run(self, events: list[Event], records: list[StepRecord]) -> None:
        # Before scheduling: an expired request must not cost a step, and its blocks can admit another.
        self._expire(self.clock(), events)
        events += self._submissions.queue_compiled()
        self._stalls.resume(self.requests)
        begun = time.monotonic_ns()
        scheduled = self.scheduler.schedule()
        self.progressed = bool(scheduled)
        if scheduled:
            self._note_scheduled(scheduled)
            self._compute(scheduled, begun, events, records)

    def _compute(
        self, scheduled: list[ScheduledSequence], begun: int, events: list[Event], records: list[StepRecord]
    ) -> None:
        """Compute the sequences together; where that raises, in parts, so that only those for which it does fail.

        What is computed again goes to the same places of the cache, and tokens are drawn behind all that may raise.
        """
        faults = self._conclusion.faults
        for part, computed in apart(scheduled, self._computation.run, partial(self._conclusion.fail, events=events)):
            if whole := len(part) == len(scheduled):
                computed.begin_at(begun)
            self._conclude(part, computed, events)
            records.append(computed.record())
            # A step that lost tokens or was divided says little of what one costs.
            if whole and not computed.trace.failures:
                with self.guard("observe"):
                    self._learn(computed.shape, records[-1].duration_ns / 1e9)
        if self._conclusion.faults - faults < len(scheduled):
            self._soundness.completed()
        else:
            self._soundness.failed()

    def _conclude(self, part: Sequence[ScheduledSequence], computed: Computed, events: list[Event]) -> None:
        begun = time.monotonic_ns()
        shares, trace = self._conclusion.shares(part, computed.segments), computed.trace
        complete = set(trace.complete(computed.segments))
        self._lose([share for number, share in enumerate(shares) if number not in complete], trace, events)
        if computed.logits_LV is not None:
            self._conclusion.apply([shares[number] for number in sorted(complete)], trace, computed.logits_LV, events)
            trace.stages_ns[Stage.SAMPLE] += time.monotonic_ns() - begun

    def _learn(self, shape: StepShape, seconds: float) -> None:
        self.scheduler.prefill.observe(shape, seconds)
        self.overlap.observe(seconds)
        self._expiry.note(shape.prefill_tokens, seconds)

    def _prove(self) -> None:
        """Submit the engine's own request if it is due; where the queue is full, the next step tries again."""
        if self._soundness.doubtful:
            proof = self._soundness.proof(self.requests.new_key(), self.clock())
            self._soundness.without_proof(self.submit(proof))

    def _lose(self, lost: list[Share], trace: StepTrace, events: list[Event]) -> None:
        """Stall or end the requests that have lost a token; note what others have gone on without."""
        if lost or (trace.failures and (trace.degraded_at_T < WHOLE).any()):
            self._stalls.begin(self._conclusion.lose(lost, trace, events), trace.failures, self.clock())

    def _deadline(self, requests: Sequence[Request]) -> float:
        """Until when a step of these is worth waiting for, on the pool's clock."""
        deadlines = [inf if request.deadline is None else request.deadline for request in requests]
        last = max(deadlines)
        # Who waits for a shard is to hear of it before its own time is over.
        left = inf if last == inf else last - self.clock()
        return self.pool.clock() + (left - DEADLINE_MARGIN_SECONDS if left > 2 * DEADLINE_MARGIN_SECONDS else left)

    def _note_scheduled(self, scheduled: list[ScheduledSequence]) -> None:
        now = self.clock()
        for item in scheduled:
            request = self.requests[item.key]
            request.scheduled = request.scheduled or now

    def _expire(self, now: float, events: list[Event]) -> None:
        """Fail the requests that have waited too long, or can no longer be answered in time."""
        for request, event in self._expiry.expired(now, self.unavailable_wait_s):
            self._conclusion.end(request, event, events)

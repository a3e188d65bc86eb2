"""Computes scheduled sequences up to their logits. It may be repeated: only the cache and prompts' scores change."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from torch import Tensor

from experts.host.threads import ComputeThreads
from experts.pool import ExpertPool
from kernels.ops import Ops
from router_service.engine.overlap import Halves
from router_service.engine.request import Request
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.scheduling.step_cost import StepShape
from router_service.engine.step.batch_builder import build_batch, joined_segments, step_shape
from router_service.engine.step.fallbacks import policies_of
from router_service.engine.step.forward import StepTrace, forward
from router_service.engine.step.prompt_scores import score_prompts
from router_service.engine.step.routing_trace import scored_rows, wants_routing
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from router_service.models.backbone import Backbone
from router_service.models.step_batch import Segment, StepBatch


@dataclass(slots=True)
class Computed:
    """What was computed of a step's sequences, or of some of them. L rows, V vocabulary.

    `begun_ns` is of the monotonic clock. `logits_LV` is None where unavailable shards have lost every token.
    """

    begun_ns: int
    tag: int
    shape: StepShape
    requests: list[Request]
    segments: tuple[Segment, ...]
    trace: StepTrace
    logits_LV: Tensor | None

    def begin_at(self, begun_ns: int) -> None:
        """Count the time since `begun_ns` as its own, for scheduling."""
        self.trace.stages_ns[Stage.SCHEDULE] += self.begun_ns - begun_ns
        self.begun_ns = begun_ns

    def record(self) -> StepRecord:
        """Return the record, at the end of all that is done with it."""
        return StepRecord(
            duration_ns=time.monotonic_ns() - self.begun_ns,
            prompt_tokens=self.shape.prefill_tokens,
            decode_tokens=self.shape.decode_rows,
            trace=self.trace,
            tag=self.tag,
            requests=self.requests,
        )


class Computation:
    """Computes with a model and its experts.

    Args:
        split: returns a step's sequences as one batch or two, see `OverlapPolicy`.
        request_of: returns the request of a scheduled sequence.
        progressed: called after each part of a layer.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pool: ExpertPool,
        ops: Ops,
        block_size: int,
        threads: ComputeThreads,
        split: Callable[[Sequence[ScheduledSequence], StepShape], Halves],
        request_of: Callable[[ScheduledSequence], Request],
        progressed: Callable[[], None],
    ) -> None:
        self._backbone = backbone
        self._pool = pool
        self._ops = ops
        self._block_size = block_size
        self._threads = threads
        self._split = split
        self._request_of = request_of
        self._progressed = progressed
        # Tags start at random, so that log lines of different routers or lives of one do not share a tag.
        self._tags = count((secrets.randbits(31) << 32) + 1)

    def run(self, scheduled: Sequence[ScheduledSequence]) -> Computed:
        """Compute sequences of one step."""
        begun = time.monotonic_ns()
        shape = step_shape(scheduled)
        requests = list(map(self._request_of, scheduled))
        batches, trace = self._begin(self._split(scheduled, shape), requests)
        trace.stages_ns[Stage.SCHEDULE] = time.monotonic_ns() - begun
        segments = joined_segments(batches)
        score = partial(score_prompts, self._backbone.head, requests, segments, trace)
        logits_LV = forward(self._backbone, self._pool, self._ops, batches, trace, self._progressed, score)
        return Computed(begun, self._pool.step, shape, requests, segments, trace, logits_LV)

    def _begin(
        self, parts: Sequence[Sequence[ScheduledSequence]], requests: list[Request]
    ) -> tuple[list[StepBatch], StepTrace]:
        groups = [storage.group for storage in self._backbone.cache.groups]
        batches = [build_batch(part, self._block_size, groups, self._backbone.cache.device) for part in parts]
        trace = StepTrace()
        segments = joined_segments(batches)
        trace.traced = wants_routing(requests)
        trace.scored_rows = scored_rows(requests, segments)
        trace.policy_T = policies_of(requests, segments)
        # With few rows one thread can be faster than all; which, was measured when the engine was built.
        self._threads.use(max(len(batch.token_ids_T) for batch in batches))
        self._pool.step = next(self._tags)
        return batches, trace

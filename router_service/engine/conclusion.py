"""What becomes of a step's sequences: each has a token drawn, or has read on in its prompt, or ends with an error."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from experts.host.log import fields
from router_service.engine.admission.constraints import FIELD, Constraints
from router_service.engine.failures import broken, failed
from router_service.engine.faults.apart import apart
from router_service.engine.request import Event, Request
from router_service.engine.request_table import RequestTable
from router_service.engine.sampling.sampler import Drawn, sample
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.step.fallbacks import WHOLE, refusal
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.nonfinite import nonfinite_rows, origin, scrub, slots_of, written_slots
from router_service.engine.step.routing_trace import trace_routing
from router_service.models.backbone import Backbone
from router_service.models.step_batch import Segment
from router_service.protocol.fallback import Fallback

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """A request's share of a step; `row` is that of its logits, None if they are not wanted."""

    item: ScheduledSequence
    request: Request
    segment: Segment
    row: int | None

    @property
    def rows(self) -> slice:
        """Its rows of the step."""
        return slice(self.segment.start, self.segment.start + self.segment.length)


class Conclusion:
    """Advances the sequences of a computed step and makes their events. L rows of logits, V vocabulary.

    What raises for one request ends that one alone; what raises for several at once is repeated for each. Only what
    raises behind a request's last event goes on to the caller: its blocks may not be free then.

    `nonfinite_logits` counts the requests that ended because the model's logits were not finite, `faults` those that
    ended because something raised for them. `fallback_tokens` counts by policy the tokens that met experts without a
    living copy: with drop and next_best those that were drawn degraded, with wait those that were put off, once for
    each stall, with fail those that were refused.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        scheduler: Scheduler,
        requests: RequestTable,
        eos_token_ids: frozenset[int],
        clock: Callable[[], float],
        constraints: Constraints,
    ) -> None:
        self.nonfinite_logits = self.faults = 0
        self.fallback_tokens: Counter[str] = Counter({policy.value: 0 for policy in Fallback})
        self._backbone = backbone
        self._scheduler = scheduler
        self._requests = requests
        self._eos_token_ids = eos_token_ids
        self._clock = clock
        self._constraints = constraints

    def shares(self, scheduled: Sequence[ScheduledSequence], segments: Sequence[Segment]) -> list[Share]:
        """The requests' shares of a step, in the order of its segments."""
        made, row = [], 0
        for item, segment in zip(scheduled, segments, strict=True):
            made.append(Share(item, self._requests[item.key], segment, row if item.wants_logits else None))
            row += item.wants_logits
        return made

    def apply(self, shares: Sequence[Share], trace: StepTrace, logits_LV: Tensor, events: list[Event]) -> None:
        """Advance the sequences that lost no token, and append their events."""
        for share in shares:
            with self._alone(share, events):
                self._taint(share, trace)
                self._scheduler.advance(share.item)
                # Its wait for a shard is over; a later one has its whole time again.
                share.request.stalled_since, share.request.stalled_by = 0.0, ""
        self._end_nonfinite(_going(shares), logits_LV, events)
        for share in _going(shares):
            with self._alone(share, events):
                events += share.request.prompt_events()
        self._trace_routing(_going(shares), trace, events)
        drawing = [share for share in _going(shares) if share.row is not None]
        self._end_unmatched(drawing, events)
        self._draw(_going(drawing), trace, logits_LV, events)
        self._report_routing(_going(shares), events)

    def lose(self, shares: Sequence[Share], trace: StepTrace, events: list[Event]) -> list[Request]:
        """End those of the requests that have lost a token which do not wait; return the others."""
        waiting = []
        for share in shares:
            request, rows = share.request, range(share.rows.start, share.rows.stop)
            self.fallback_tokens[request.fallback] += 1
            if missing := [trace.missing[row] for row in rows if row in trace.missing]:
                self.end(request, failed(request, "UNAVAILABLE", refusal(missing)), events)
            else:
                waiting.append(request)
        return waiting

    def end(self, request: Request, event: Event, events: list[Event]) -> None:
        """Append a request's last event, then free its blocks: if that raises, no second last event follows."""
        self._requests.end(request)
        events.append(event)
        self._scheduler.remove(request.key)

    def _taint(self, share: Share, trace: StepTrace) -> None:
        """Note from where on a sequence's keys and values are not the whole model's.

        A layer's keys and values are made of its input, so what a row lacks in the last layer is in none of them.
        """
        if trace.policy_T is not None:
            tainted_R = np.flatnonzero(trace.degraded_at_T[share.rows] < self._backbone.spec.layers - 1)
            if len(tainted_R):
                self._scheduler.taint(share.item.key, share.item.start + int(tainted_R[0]))

    def fail(self, item: ScheduledSequence, error: Exception, events: list[Event]) -> None:
        """End the request of `item`, for which `error` was raised, and let nobody find what it has written.

        Raises:
            Exception: `error` itself, where the request had its last event before.
        """
        request = self._requests[item.key]
        if request.ended:
            raise error
        self.faults += 1
        log.error("a request failed alone", exc_info=error, extra=fields(request_id=request.request_id))
        try:
            self._discard(item)
        except Exception:  # on a device that answers nothing any more; then nobody computes there either
            log.exception("what a failed request has written is left as it is")
        self.end(request, broken(request, error), events)

    @contextmanager
    def _alone(self, share: Share, events: list[Event]) -> Iterator[None]:
        """Let what the block raises end this request alone."""
        try:
            yield
        except Exception as error:
            self.fail(share.item, error, events)

    def _end_nonfinite(self, shares: Sequence[Share], logits_LV: Tensor, events: list[Event]) -> None:
        """End the requests whose logits are not finite."""
        # Of all rows: those without a share here have lost tokens, and are zeros or finite.
        found = apart(
            [share for share in shares if share.row is not None],
            lambda part: nonfinite_rows(_rows_of(part, logits_LV)),
            lambda share, error: self.fail(share.item, error, events),
        )
        for part, rows in found:
            for row in rows:
                with self._alone(part[row], events):
                    self._end_one_nonfinite(part[row], events)

    def _end_one_nonfinite(self, share: Share, events: list[Event]) -> None:
        self.nonfinite_logits += 1
        item, cache, blocks = share.item, self._backbone.cache, self._scheduler.blocks
        where = origin(cache, self._backbone.spec.layers, written_slots(item, blocks.block_size))
        self._discard(item)
        message = f"the model's logits are not finite at position {share.segment.context - 1}: {where}"
        log.error("%s", message, extra=fields(request_id=share.request.request_id))
        self.end(share.request, failed(share.request, "INTERNAL", message), events)

    def _discard(self, item: ScheduledSequence) -> None:
        """Let nobody find what a sequence has written, and leave nothing in its blocks that is not finite."""
        blocks = self._scheduler.blocks
        self._scheduler.distrust(item.key)
        scrub(self._backbone.cache, [slots_of(own, blocks.block_size) for own in blocks.unshared(item.block_tables)])

    def _trace_routing(self, shares: Sequence[Share], trace: StepTrace, events: list[Event]) -> None:
        def trace_all(part: Sequence[Share]) -> None:
            requests, segments = [share.request for share in part], [share.segment for share in part]
            trace_routing(requests, [share.item.start for share in part], segments, trace)

        asking = [share for share in shares if share.request.return_routing]
        for _ in apart(asking, trace_all, lambda share, error: self.fail(share.item, error, events)):
            pass

    def _report_routing(self, shares: Sequence[Share], events: list[Event]) -> None:
        """Append the routing of prompts that are not read to their end yet: kept until then, it would add up."""
        for share in shares:
            with self._alone(share, events):
                if (event := share.request.routing_event()) is not None:
                    events.append(event)

    def _end_unmatched(self, shares: Sequence[Share], events: list[Event]) -> None:
        """End the requests whose grammars cannot go on, as where they turn out too complex."""
        self._constraints.settle(share.request for share in shares)
        for share in shares:
            matcher = share.request.row.matcher
            if matcher is not None and matcher.error:
                self.end(share.request, failed(share.request, "INVALID_ARGUMENT", f"{FIELD}: {matcher.error}"), events)

    def _draw(self, shares: Sequence[Share], trace: StepTrace, logits_LV: Tensor, events: list[Event]) -> None:
        """Draw a token for each request from its row of the logits, and append its event."""
        drawn = apart(
            shares,
            lambda part: sample(_rows_of(part, logits_LV), [share.request.row for share in part], self._eos_token_ids),
            lambda share, error: self.fail(share.item, error, events),
        )
        for part, draws in drawn:
            now = self._clock()
            self._constraints.advance([(share.request, draw.token) for share, draw in zip(part, draws, strict=True)])
            for share, draw in zip(part, draws, strict=True):
                with self._alone(share, events):
                    self._advance(share.request, draw, degraded(share, trace), now, events)

    def _advance(self, request: Request, drawn: Drawn, degraded: bool, now: float, events: list[Event]) -> None:
        self._scheduler.append(request.key, drawn.token)
        finish = request.finish_after(drawn.token, self._eos_token_ids)
        event = request.next_event(drawn.token, drawn.logprobs, finish, now, degraded)
        if degraded:
            self.fallback_tokens[request.fallback] += 1
        if finish is not None:
            self.end(request, event, events)
        else:
            events.append(event)


def degraded(share: Share, trace: StepTrace) -> bool:
    """Whether a row's logits are not those of the whole model for the tokens before it.

    So it is if the row itself lacked an expert in any layer, or if it may have read keys and values of a position that
    lacked one in a layer before: those of this step and of all earlier ones that are still in its cache. What a
    preempted request, or one that goes on with another router, computes anew is judged anew.
    """
    if share.request.sequence.tainted is not None:
        return True
    return trace.policy_T is not None and bool(trace.degraded_at_T[share.rows][-1] < WHOLE)


def _going(shares: Sequence[Share]) -> list[Share]:
    return [share for share in shares if not share.request.ended]


def _rows_of(shares: Sequence[Share], logits_LV: Tensor) -> Tensor:
    """The rows of shares that have one; where those are all rows, they need not be copied."""
    return logits_LV if len(shares) == len(logits_LV) else logits_LV[[share.row for share in shares]]

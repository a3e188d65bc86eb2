"""Layers in flight: their calls are sent, repeated and cancelled, and their answers are put where they add up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.division.base import CallRows, Division, Sizes
from experts.exchange import Ask, Attempt, Exchange
from experts.links.usual import UsualTimes
from experts.transport.base import Event, Refusal, Reply, Sent, ShardUnavailable, Transport, Why
from experts.transport.call import ExpertCall, Form

NO_PLACES = np.empty((0, 0), np.int64)
# While nothing comes, links are looked at so often.
PAUSE_SECONDS = 0.25


class Tag(NamedTuple):
    """What all calls of a layer say: see `experts.transport.call.ExpertCall`."""

    layer: int
    step: int
    form: Form
    epoch: int

    def call(self, x_RD: Tensor, rows: CallRows, left_us: int) -> ExpertCall:
        """A call with these rows."""
        return ExpertCall(
            layer=self.layer,
            x_RD=x_RD,
            rows_A=rows.rows_A,
            experts_A=rows.experts_A,
            weights_A=rows.weights_A,
            step=self.step,
            form=self.form,
            epoch=self.epoch,
            left_us=left_us,
        )


@dataclass(slots=True, eq=False)
class Dispatched:
    """A layer in flight: its input `x_TD`, what is asked (`division`), and where the answers go (`rows_ND`).

    `shape` is that of the routing, [T, K]. `exchange` knows who has been asked. `sent` are all calls, in the order of
    sending, and `used` those of which an answer was used, with its reply and how much was. `places_TW` says where each
    token's answers will lie in the lane's room; see `experts.division.base`. `deadline_s` is on the pool's clock.
    """

    tag: Tag
    lane: int
    x_TD: Tensor
    shape: tuple[int, int]
    division: Division
    rows_ND: NDArray[np.float32]
    exchange: Exchange[Sent]
    sent: list[Sent]
    used: list[tuple[Sent, Reply, Sizes]]
    places_TW: NDArray[np.int64]
    started_ns: int
    packed_ns: int
    deadline_s: float

    def call(self, parts: Sequence[int], left_us: int) -> ExpertCall:
        """The call for these parts, with rows of its own: the lane's are those of the first calls."""
        rows = self.division.call_rows(parts)
        x_RD = self.x_TD if rows.whole else self.x_TD[torch.from_numpy(rows.tokens_R)]
        return self.tag.call(x_RD.contiguous(), rows, left_us)


def left_us(deadline_s: float, now: float) -> int:
    """What a call says of how long it is worth computing: at least a microsecond, or 0 without a deadline."""
    return 0 if deadline_s == inf else max(1, int(1e6 * (deadline_s - now)))


class Flights:
    """The calls of all lanes that are open on `transport`, whose events may be any lane's.

    `waits` is called from time to time while answers are waited for, `missed` when a shard has said MISS: it goes by
    another placement.
    """

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self.waits: Callable[[], None] = lambda: None
        self.missed: Callable[[], None] = lambda: None
        self._transport = transport
        self._clock = clock
        self._usual = UsualTimes()
        self._open: dict[int, Dispatched] = {}

    def wait(self, handle: Dispatched) -> None:
        """Take the next event, whichever lane's it is, or do what is due."""
        exchange, now = handle.exchange, self._clock()
        if now >= exchange.due_s:
            self._act(handle, now)
        elif (
            event := self._transport.receive(min(exchange.due_s, handle.deadline_s, now + PAUSE_SECONDS))
        ) is not None:
            self._take(event)
        else:
            self._pause(handle)

    def _pause(self, handle: Dispatched) -> None:
        """Nothing has come, or a link has changed."""
        exchange, now = handle.exchange, self._clock()
        if now >= handle.deadline_s:
            exchange.lose_all("timeout", "no answer by the deadline of the step")
            return
        for shard in exchange.hopeless(now):
            self._transport.give_up(shard, "timeout")
        exchange.due_s = -inf
        self.waits()

    def _act(self, handle: Dispatched, now: float) -> None:
        for attempt in handle.exchange.newly_late(now):
            self._transport.late(attempt.call)
        for ask in handle.exchange.look(now):
            self.send(handle, ask, handle.call(ask.blocks, left_us(handle.deadline_s, now)))

    def send(self, handle: Dispatched, ask: Ask, call: ExpertCall) -> None:
        """Send what a shard is asked for."""
        now = self._clock()
        try:
            sent = self._transport.send(ask.shard, call, handle.lane)
        except ShardUnavailable as error:
            handle.exchange.unsent(ask, error.reason, str(error), now)
            return
        late_s = now + self._usual.late_s(ask.shard, sent.rows)
        handle.exchange.sent(sent.sequence, Attempt(ask.shard, ask.blocks, now, late_s, sent, ask.hedge))
        handle.sent.append(sent)
        self._open[sent.sequence] = handle

    def _take(self, event: Event) -> None:
        if isinstance(event, Refusal) and event.why is Why.MISS:
            self.missed()
        handle = self._open.pop(event.sequence, None)
        if handle is None:
            return
        exchange = handle.exchange
        if isinstance(event, Reply):
            self._use(handle, event)
        elif isinstance(event, ShardUnavailable):
            exchange.failed(event.sequence, event.reason, str(event), self._clock())
        elif event.why is Why.BUSY:
            exchange.busy(event.sequence, event.retry_s, event.text, self._clock())
        elif event.permanent:
            exchange.broken(event.sequence, event.why, event.text)
        else:
            exchange.refused(event.sequence, event.why, event.text, self._clock())

    def _use(self, handle: Dispatched, reply: Reply) -> None:
        """Copy an answer to where it is added up: where it is now, the next one may come."""
        exchange = handle.exchange
        attempt = exchange.attempts[reply.sequence]
        sent = attempt.call
        self._usual.note(sent.shard, sent.rows, (reply.received_ns - sent.sent_ns) / 1e9)
        fresh = exchange.answered(reply.sequence)
        y_ND = reply.partial.y_ND.numpy()
        if fresh:
            self._keep(handle, attempt.blocks, fresh, y_ND)
            handle.used.append((sent, reply, handle.division.sizes(fresh)))
        if exchange.hedged:
            self._cancel(exchange.superfluous())

    @staticmethod
    def _keep(handle: Dispatched, asked: Sequence[int], fresh: Sequence[int], y_ND: NDArray[np.float32]) -> None:
        """Copy what is fresh of an answer; in one piece where that is all of it, and its parts follow each other."""
        ends, rows_ND = handle.division.ends, handle.rows_ND
        first, last = fresh[0], fresh[-1]
        if len(fresh) == len(asked) == last - first + 1:
            rows_ND[ends[first] : ends[last + 1]] = y_ND
            return
        wanted, start = set(fresh), 0
        for part in asked:
            end = start + ends[part + 1] - ends[part]
            if part in wanted:
                rows_ND[ends[part] : ends[part + 1]] = y_ND[start:end]
            start = end

    def end(self, handle: Dispatched) -> None:
        """Nobody waits for the handle's calls any more."""
        if handle.exchange.left:
            handle.exchange.lose_all("error", "the step has ended")
        self._cancel(handle.exchange.superfluous())

    def _cancel(self, attempts: list[Attempt[Sent]]) -> None:
        for attempt in attempts:
            self._transport.cancel(attempt.call)
            self._open.pop(attempt.call.sequence, None)

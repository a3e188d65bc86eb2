"""A layer's trip to the experts and back: choose who is asked, divide, send, wait, add.

`dispatch` returns a handle and `combine` takes it, so that the router can compute something of its own in between.
T tokens, D hidden.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.answers import AnswerRoom
from experts.costs import ShardCosts, equal_costs
from experts.division.base import Division
from experts.division.blocks import BlockDivision
from experts.division.chooser import Chooser
from experts.exchange import Exchange, HedgeBudget, Loss
from experts.flights import NO_PLACES, Dispatched, Flights, Tag, left_us
from experts.gathering import GatherRoom
from experts.placement import LayerPlacement, Placement
from experts.routing import LOST, Routing
from experts.timing.phases import LayerTrip, measured
from experts.transport.base import Sent, ShardUnavailable, Transport
from experts.transport.call import Form
from experts.transport.shared import SharedSizes

NO_TOKENS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Combined:
    """`y_TD` float32 (without what a token's missing experts would add), what is lost, the failures, the timings.

    `lost_TK` marks the (token, expert) pairs that nobody has answered for; None where there are none.
    """

    y_TD: Tensor
    lost_TK: NDArray[np.bool_] | None
    failures: tuple[ShardUnavailable, ...]
    trip: LayerTrip
    handle: Dispatched

    @property
    def lost_tokens(self) -> NDArray[np.int64]:
        """The tokens that have lost an expert, ascending."""
        return NO_TOKENS if self.lost_TK is None else np.flatnonzero(self.lost_TK.any(axis=1))

    def shards_TK(self) -> NDArray[np.int64]:
        """Who has answered for each pair, or was to be asked for it if nobody has; `LOST` where its expert is lost."""
        division, answered_by = self.handle.division, self.handle.exchange.answered_by
        shards_TK = np.full(self.handle.shape, LOST, np.int64)
        for part, chosen in enumerate(division.chosen):
            shards_TK.reshape(-1)[division.pairs(part)] = answered_by.get(part, chosen)
        return shards_TK


class ExpertPool:
    """All shards behind one transport. Calls carry `step`, which the engine sets before each step.

    Of an expert's holders the one is asked that makes the slowest shard fastest, as `costs` say: equal ones at first,
    which may be replaced at any time by what was measured.

    Nobody waits for answers past `deadline_s` of `clock`, which it may set too: what has not been answered is lost.

    Args:
        call_timeout_s: a shard that has never beaten fails when it has not replied for so long.
        exact: ask for a row for each (token, expert) and add a token's rows in the order of its routing, so that its
            result depends neither on where experts live nor on who answered. Else shards send sums, which are fewer
            bytes, and those are added in the order of the blocks.
        share: the most that a lane's call to a shard and its reply take, for a transport that shares memory.
        clock: seconds, which the transport goes by too.

    `record` counts failures.
    """

    def __init__(
        self,
        transport: Transport,
        placement: Placement,
        call_timeout_s: float,
        exact: bool = False,
        share: SharedSizes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = transport
        self.placement = placement
        self.form = Form.EACH if exact else Form.SUMS
        self.share = share
        self.record = transport.record
        self.step = 0
        self.deadline_s = inf
        self._timeout_s = call_timeout_s
        self.clock = clock
        self._budget = HedgeBudget()
        self._chooser = Chooser(equal_costs(placement.shards))
        self._chosen_for = placement
        # By lane: its calls are combined before it is used again.
        self._lanes: dict[int, tuple[GatherRoom, AnswerRoom]] = {}
        self._flying: dict[int, Dispatched] = {}
        self._flights = Flights(transport, clock)

    @property
    def costs(self) -> ShardCosts:
        """What a layer's call costs each shard."""
        return self._chooser.costs

    @costs.setter
    def costs(self, costs: ShardCosts) -> None:
        self._chooser.costs = costs

    def adopt(self, placement: Placement) -> bool:
        """Ask by a newer placement from now on; return False if its epoch is not higher. Between two steps only.

        What a step that has raised has left open is given up: nothing by the older placement is used any more.
        """
        if placement.epoch <= self.placement.epoch:
            return False
        for handle in self._flying.values():
            self._flights.end(handle)
        self._flying.clear()
        self.placement = placement
        return True

    def on_wait(self, waits: Callable[[], None]) -> None:
        """Call `waits` from time to time while answers of shards that live are waited for."""
        self._flights.waits = waits

    def on_miss(self, missed: Callable[[], None]) -> None:
        """Call `missed` whenever a shard says that it does not hold what it was asked for; it must return at once."""
        self._flights.missed = missed

    def dead_experts(self, layer: int) -> NDArray[np.bool_] | None:
        """Which experts of a layer none of whose holders can be called, [E]; None where there are none, as is usual."""
        placed = self.placement.layer(layer)
        dead_B = [not any(self.transport.available(shard) for shard in shards) for shards in placed.blocks]
        return np.array(dead_B)[placed.block_of_E] if any(dead_B) else None

    def reachable(self) -> bool:
        """Whether each expert is held by some shard that can be called now."""
        layers = (self.placement.everywhere, *self.placement.special.values())
        return all(any(map(self.transport.available, shards)) for layer in layers for shards in layer.blocks)

    def dispatch(self, layer: int, x_TD: Tensor, routing: Routing, lane: int = 0) -> Dispatched:
        """Send each token's row once to each shard that is asked for one of its experts, over the connection `lane`.

        With sums it goes once for each block. A lane's calls are combined before it is used again; other lanes may be
        in flight meanwhile. All calls are packed before the first is sent: a shard that wakes up may take this
        process's core.
        """
        started = time.monotonic_ns()
        if lane in self._flying:  # a step has raised between the two
            self._flights.end(self._flying[lane])
        division = self._divided(routing, self.placement.layer(layer))
        x_TD = x_TD.cpu()
        gathering, answers = self._rooms(lane)
        exchange: Exchange[Sent] = Exchange(
            division.holders,
            self.transport,
            self.record,
            self._budget,
            self._timeout_s,
            division.chosen,
            division.runs,
        )
        asks = exchange.first()
        rows = [division.call_rows(ask.blocks) for ask in asks]
        tag, left = Tag(layer, self.step, self.form, self.placement.epoch), left_us(self.deadline_s, self.clock())
        gathered = gathering.rows(x_TD, rows)
        calls = [tag.call(x_RD, call_rows, left) for x_RD, call_rows in zip(gathered, rows, strict=True)]
        rows_ND = answers.rows(division.ends[-1], x_TD.shape[1])
        packed = time.monotonic_ns()
        handle = Dispatched(
            tag=tag,
            lane=lane,
            x_TD=x_TD,
            shape=routing.expert_ids_TK.shape,
            division=division,
            rows_ND=rows_ND,
            exchange=exchange,
            sent=[],
            used=[],
            places_TW=NO_PLACES,
            started_ns=started,
            packed_ns=packed,
            deadline_s=self.deadline_s,
        )
        self._flying[lane] = handle
        for ask, call in zip(asks, calls, strict=True):
            self._flights.send(handle, ask, call)
        # The shards compute meanwhile.
        handle.places_TW = division.places()
        return handle

    def _divided(self, routing: Routing, layer: LayerPlacement) -> Division:
        """The routing in parts, each with the holder that is to be asked."""
        if self.placement is not self._chosen_for:
            self._renew()
        ranks = [self.transport.rank(shard) for shard in range(self.placement.shards)] if layer.shared else []
        if self.form is Form.SUMS:
            return BlockDivision(routing, layer, self.costs, ranks)
        return self._chooser.divide(routing, layer, ranks)

    def _renew(self) -> None:
        """There is a new placement, perhaps of more shards."""
        self._chosen_for = self.placement
        self._chooser.forget()
        if self.placement.shards != len(self.costs.call_us_S):
            self.costs = self.costs.resized(self.placement.shards)

    def combine(self, handle: Dispatched, device: torch.device) -> Combined:
        """Wait for the replies and add them up in a fixed order: neither that of arrival nor who answers changes a bit.

        What fails is asked of another shard that holds it. A shard that is slow but lives is waited for until the
        deadline.
        """
        waiting_ns = time.monotonic_ns()
        exchange = handle.exchange
        while exchange.left:
            self._flights.wait(handle)
        self._flights.end(handle)
        self._flying.pop(handle.lane, None)
        exchange.finish(self.clock())
        reducing_ns = time.monotonic_ns()
        lost_TK, places_TW = None, handle.places_TW
        if exchange.lost:
            lost_TK, places_TW = self._lose(handle)
        y_TD = self._rooms(handle.lane)[1].sum(places_TW).to(device)
        trip = _trip(handle, waiting_ns, reducing_ns, time.monotonic_ns())
        return Combined(y_TD, lost_TK, _failures(exchange.lost), trip, handle)

    def _lose(self, handle: Dispatched) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The pairs of the parts that nobody has answered, and the places without these."""
        division, lost = handle.division, list(handle.exchange.lost)
        lost_TK = np.zeros(handle.shape, dtype=bool)
        for part in lost:
            lost_TK.reshape(-1)[division.pairs(part)] = True
        return lost_TK, division.without(handle.places_TW, lost)

    def _rooms(self, lane: int) -> tuple[GatherRoom, AnswerRoom]:
        rooms = self._lanes.get(lane)
        if rooms is None:
            rooms = self._lanes[lane] = (GatherRoom(), AnswerRoom())
        return rooms


def _failures(lost: dict[int, Loss]) -> tuple[ShardUnavailable, ...]:
    """One for each shard that has failed last for some block."""
    shards = {loss.shard: loss for loss in lost.values()}
    return tuple(ShardUnavailable(loss.shard, loss.reason, loss.text) for loss in shards.values())


def _trip(handle: Dispatched, waiting_ns: int, reducing_ns: int, done_ns: int) -> LayerTrip:
    reduce_ns = done_ns - reducing_ns
    calls = [
        measured(handle.started_ns, sent, reply, reduce_ns, sizes)
        for sent, reply, sizes in sorted(handle.used, key=lambda used: used[0].sequence)
    ]
    pack_ns = handle.packed_ns - handle.started_ns
    return LayerTrip(handle.tag.layer, b"".join(calls), pack_ns, reducing_ns - waiting_ns, reduce_ns, waiting_ns)

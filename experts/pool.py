"""A layer's trip to the experts and back: group by block, send, wait, add.

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

from experts.answers import AnswerRoom, places, without
from experts.exchange import Exchange, HedgeBudget, Loss
from experts.flights import NO_PLACES, Dispatched, Flights, left_us
from experts.gathering import GatherRoom
from experts.grouping import BlockGroup, group_by_block
from experts.merging import merged
from experts.phases import LayerTrip, measured
from experts.placement import Placement
from experts.routing import Routing
from experts.transport.base import Sent, ShardUnavailable, Transport
from experts.transport.call import ExpertCall, Form
from experts.transport.shared import SharedSizes

NO_TOKENS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Combined:
    """`y_TD` float32 (without what a token's missing experts would add), what is lost, the failures, the timings.

    `lost_TK` marks the (token, expert) pairs that nobody has answered for; None where there are none. `shard_of_B` says
    who has answered for each block, or would be asked for it.
    """

    y_TD: Tensor
    lost_TK: NDArray[np.bool_] | None
    failures: tuple[ShardUnavailable, ...]
    trip: LayerTrip
    shard_of_B: NDArray[np.int64]

    @property
    def lost_tokens(self) -> NDArray[np.int64]:
        """The tokens that have lost an expert, ascending."""
        return NO_TOKENS if self.lost_TK is None else np.flatnonzero(self.lost_TK.any(axis=1))


class ExpertPool:
    """All shards behind one transport. Calls carry `step`, which the engine sets before each step.

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
        # By lane: its calls are combined before it is used again.
        self._lanes: dict[int, tuple[GatherRoom, AnswerRoom]] = {}
        self._flying: dict[int, Dispatched] = {}
        self._flights = Flights(transport, clock)

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
        """Send each token's row once for each block that holds one of its experts, over the connection `lane`.

        A lane's calls are combined before it is used again; other lanes may be in flight meanwhile. All calls are
        packed before the first is sent: a shard that wakes up may take this process's core.
        """
        started = time.monotonic_ns()
        if lane in self._flying:  # a step has raised between the two
            self._flights.end(self._flying[lane])
        placed = self.placement.layer(layer)
        groups = group_by_block(routing, placed)
        x_TD = x_TD.cpu()
        gathering, answers = self._rooms(lane)
        gathered = gathering.rows(x_TD, groups)
        left = left_us(self.deadline_s, self.clock())
        parts = [self._call(layer, x_RD, group, left) for x_RD, group in zip(gathered, groups, strict=True)]
        blocks = placed.blocks
        exchange: Exchange[Sent] = Exchange(
            [blocks[group.block] for group in groups], self.transport, self.record, self._budget, self._timeout_s
        )
        calls = [(ask, merged([parts[number] for number in ask.blocks])) for ask in exchange.first()]
        rooms = answers.parts([part.reply_rows for part in parts], x_TD.shape[1])
        packed = time.monotonic_ns()
        handle = Dispatched(
            layer=layer,
            placed=placed,
            lane=lane,
            groups=tuple(groups),
            parts=tuple(parts),
            rooms=tuple(rooms),
            exchange=exchange,
            sent=[],
            used=[],
            places_TW=NO_PLACES,
            top_k=routing.expert_ids_TK.shape[1],
            started_ns=started,
            packed_ns=packed,
            deadline_s=self.deadline_s,
        )
        self._flying[lane] = handle
        for ask, call in calls:
            self._flights.send(handle, ask, call)
        # The shards compute meanwhile.
        handle.places_TW = places(self.form, groups, *routing.expert_ids_TK.shape)
        return handle

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
        return Combined(y_TD, lost_TK, _failures(exchange.lost), trip, self._shard_of_B(handle))

    def _shard_of_B(self, handle: Dispatched) -> NDArray[np.int64]:
        shard_of_B = handle.placed.first_of_B.copy()
        for block, shard in handle.exchange.answered_by.items():
            shard_of_B[handle.groups[block].block] = shard
        return shard_of_B

    def _lose(self, handle: Dispatched) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The pairs of the blocks that nobody has answered, and the places without these."""
        missing = [number in handle.exchange.lost for number in range(len(handle.groups))]
        lost_TK = np.zeros((len(handle.places_TW), handle.top_k), dtype=bool)
        for number in handle.exchange.lost:
            lost_TK.reshape(-1)[handle.groups[number].pairs_A] = True
        return lost_TK, without(handle.places_TW, self.form, handle.groups, missing)

    def _rooms(self, lane: int) -> tuple[GatherRoom, AnswerRoom]:
        rooms = self._lanes.get(lane)
        if rooms is None:
            rooms = self._lanes[lane] = (GatherRoom(), AnswerRoom())
        return rooms

    def _call(self, layer: int, x_RD: Tensor, group: BlockGroup, left_us: int) -> ExpertCall:
        return ExpertCall(
            layer=layer,
            x_RD=x_RD,
            rows_A=group.rows_A,
            experts_A=group.experts_A,
            weights_A=group.weights_A,
            step=self.step,
            form=self.form,
            epoch=self.placement.epoch,
            left_us=left_us,
        )


def _failures(lost: dict[int, Loss]) -> tuple[ShardUnavailable, ...]:
    """One for each shard that has failed last for some block."""
    shards = {loss.shard: loss for loss in lost.values()}
    return tuple(ShardUnavailable(loss.shard, loss.reason, loss.text) for loss in shards.values())


def _trip(handle: Dispatched, waiting_ns: int, reducing_ns: int, done_ns: int) -> LayerTrip:
    reduce_ns = done_ns - reducing_ns
    calls = [
        measured(handle.started_ns, sent, reply, reduce_ns, [handle.groups[number] for number in numbers])
        for sent, reply, numbers in sorted(handle.used, key=lambda used: used[0].sequence)
    ]
    pack_ns = handle.packed_ns - handle.started_ns
    return LayerTrip(handle.layer, b"".join(calls), pack_ns, reducing_ns - waiting_ns, reduce_ns, waiting_ns)

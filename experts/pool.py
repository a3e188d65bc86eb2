"""A layer's trip to the experts and back: group by block, send, wait, add.

`dispatch` returns a handle and `combine` takes it, so that the router can compute something of its own in between.
T tokens, D hidden.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.answers import AnswerRoom, places, without
from experts.gathering import GatherRoom
from experts.grouping import BlockGroup, group_by_block
from experts.links.record import FailureRecord
from experts.merging import merged
from experts.phases import LayerTrip, measured
from experts.placement import LayerPlacement, Placement
from experts.routing import Routing
from experts.transport.base import Reply, Sent, ShardUnavailable, Transport
from experts.transport.call import ExpertCall, Form
from experts.transport.shared import SharedSizes

NO_TOKENS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A layer in flight: its blocks' `groups`, the calls that were sent, and the failures of those that could not be.

    `asked[s]` lists the groups, by their numbers, that shard s was asked for, and `rooms` has a place for the answer of
    each. `places_TW` says where each token's answers will lie in the lane's room; see `experts.answers.places`.
    """

    layer: int
    lane: int
    groups: tuple[BlockGroup, ...]
    asked: dict[int, list[int]]
    rooms: tuple[NDArray[np.float32], ...]
    sent: tuple[Sent, ...]
    failures: tuple[ShardUnavailable, ...]
    places_TW: NDArray[np.int64]
    top_k: int
    started_ns: int
    packed_ns: int


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

    Args:
        exact: ask for a row for each (token, expert) and add a token's rows in the order of its routing, so that its
            result depends neither on where experts live nor on who answered. Else shards send sums, which are fewer
            bytes, and those are added in the order of the shards.
        share: the most that a lane's call to a shard and its reply take, for a transport that shares memory.
    """

    def __init__(
        self,
        transport: Transport,
        placement: Placement,
        call_timeout_s: float,
        exact: bool = False,
        share: SharedSizes | None = None,
    ) -> None:
        self.transport = transport
        self.placement = placement
        self.form = Form.EACH if exact else Form.SUMS
        self.share = share
        self.record = FailureRecord()
        self.step = 0
        self._timeout_s = call_timeout_s
        # By lane: its calls are combined before it is used again.
        self._lanes: dict[int, tuple[GatherRoom, AnswerRoom]] = {}

    def dead_experts(self, layer: int) -> NDArray[np.bool_] | None:
        """Which experts of a layer none of whose holders can be called, [E]; None where there are none, as is usual."""
        placed = self.placement.layer(layer)
        dead_B = [not any(self.transport.available(shard) for shard in shards) for shards in placed.blocks]
        return np.array(dead_B)[placed.block_of_E] if any(dead_B) else None

    def dispatch(self, layer: int, x_TD: Tensor, routing: Routing, lane: int = 0) -> Dispatched:
        """Send each token's row once to each shard that is asked for one of its experts, over the connection `lane`.

        A lane's calls are combined before it is used again; other lanes may be in flight meanwhile. All calls are
        packed before the first is sent: a shard that wakes up may take this process's core.
        """
        started = time.monotonic_ns()
        placed = self.placement.layer(layer)
        groups = group_by_block(routing, placed)
        x_TD = x_TD.cpu()
        gathering, answers = self._rooms(lane)
        gathered = gathering.rows(x_TD, groups)
        parts = [self._call(layer, x_RD, group) for x_RD, group in zip(gathered, groups, strict=True)]
        asked = self._asked(groups, placed)
        calls = {shard: merged([parts[number] for number in numbers]) for shard, numbers in asked.items()}
        rooms = answers.parts([part.reply_rows for part in parts], x_TD.shape[1])
        packed = time.monotonic_ns()
        sent, failures = [], []
        for shard, call in calls.items():
            try:
                sent.append(self.transport.send(shard, call, lane))
            except ShardUnavailable as error:
                failures.append(error)
        return Dispatched(
            layer=layer,
            lane=lane,
            groups=tuple(groups),
            asked=asked,
            rooms=tuple(rooms),
            sent=tuple(sent),
            failures=tuple(failures),
            # The shards compute meanwhile.
            places_TW=places(self.form, groups, *routing.expert_ids_TK.shape),
            top_k=routing.expert_ids_TK.shape[1],
            started_ns=started,
            packed_ns=packed,
        )

    def combine(self, handle: Dispatched, device: torch.device) -> Combined:
        """Wait for the replies and add them up in a fixed order: the order of arrival must change no bit."""
        waiting_ns = time.monotonic_ns()
        replies, failures = self._collect(handle)
        reducing_ns = time.monotonic_ns()
        lost_TK, places_TW = None, handle.places_TW
        if len(replies) < len(handle.asked):
            lost_TK, places_TW = self._lose(handle, replies)
        y_TD = self._rooms(handle.lane)[1].sum(places_TW).to(device)
        trip = _trip(handle, replies, waiting_ns, reducing_ns, time.monotonic_ns())
        return Combined(y_TD, lost_TK, handle.failures + tuple(failures), trip, self._shard_of_B(handle))

    def _shard_of_B(self, handle: Dispatched) -> NDArray[np.int64]:
        shard_of_B = self.placement.layer(handle.layer).first_of_B.copy()
        for shard, numbers in handle.asked.items():
            shard_of_B[[handle.groups[number].block for number in numbers]] = shard
        return shard_of_B

    def _asked(self, groups: list[BlockGroup], placed: LayerPlacement) -> dict[int, list[int]]:
        """Which shard is asked for which groups: each block's first holder that can be called, else its home."""
        asked: dict[int, list[int]] = {}
        for number, group in enumerate(groups):
            holders = placed.blocks[group.block]
            shard = next((one for one in holders if self.transport.available(one)), holders[0])
            asked.setdefault(shard, []).append(number)
        return asked

    def _lose(self, handle: Dispatched, replies: dict[int, Reply]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The pairs of the shards that have not replied, and the places without these."""
        gone = {number for shard, numbers in handle.asked.items() if shard not in replies for number in numbers}
        missing = [number in gone for number in range(len(handle.groups))]
        lost_TK = np.zeros((len(handle.places_TW), handle.top_k), dtype=bool)
        for number in gone:
            lost_TK.reshape(-1)[handle.groups[number].pairs_A] = True
        return lost_TK, without(handle.places_TW, self.form, handle.groups, missing)

    def _rooms(self, lane: int) -> tuple[GatherRoom, AnswerRoom]:
        rooms = self._lanes.get(lane)
        if rooms is None:
            rooms = self._lanes[lane] = (GatherRoom(), AnswerRoom())
        return rooms

    def _call(self, layer: int, x_RD: Tensor, group: BlockGroup) -> ExpertCall:
        return ExpertCall(
            layer=layer,
            x_RD=x_RD,
            rows_A=group.rows_A,
            experts_A=group.experts_A,
            weights_A=group.weights_A,
            step=self.step,
            form=self.form,
            epoch=self.placement.epoch,
        )

    def _collect(self, handle: Dispatched) -> tuple[dict[int, Reply], list[ShardUnavailable]]:
        deadline = time.monotonic() + self._timeout_s
        outstanding = {call.shard: call for call in handle.sent}
        replies: dict[int, Reply] = {}
        failures: list[ShardUnavailable] = []
        while outstanding:
            result = self.transport.receive(outstanding, deadline)
            if isinstance(result, Reply):
                replies[result.shard] = result
                _keep(handle, result)
            else:
                failures.append(result)
            del outstanding[result.shard]
        return replies, failures


def _keep(handle: Dispatched, reply: Reply) -> None:
    """Copy an answer to where it is added up: where it is now, the next one may come."""
    y_ND, start = reply.partial.y_ND.numpy(), 0
    for number in handle.asked[reply.shard]:
        room_ND = handle.rooms[number]
        room_ND[:] = y_ND[start : start + len(room_ND)]
        start += len(room_ND)


def _trip(handle: Dispatched, replies: dict[int, Reply], waiting_ns: int, reducing_ns: int, done_ns: int) -> LayerTrip:
    reduce_ns = done_ns - reducing_ns
    calls = [
        measured(
            handle.started_ns,
            sent,
            replies[sent.shard],
            reduce_ns,
            [handle.groups[number] for number in handle.asked[sent.shard]],
        )
        for sent in handle.sent
        if sent.shard in replies
    ]
    pack_ns = handle.packed_ns - handle.started_ns
    return LayerTrip(handle.layer, b"".join(calls), pack_ns, reducing_ns - waiting_ns, reduce_ns, waiting_ns)

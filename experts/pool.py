"""A layer's trip to the experts and back: group by shard, send, wait, add.

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
from experts.grouping import ShardGroup, group_by_shard
from experts.phases import LayerTrip, measured
from experts.placement import Placement
from experts.routing import Routing
from experts.transport.base import Reply, Sent, ShardUnavailable, Transport
from experts.transport.call import ExpertCall, Form
from experts.transport.shared import SharedSizes

NO_TOKENS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A layer in flight: the shards' `groups`, the calls that were sent, and the failures of those that could not be.

    `places_TW` says where each token's answers will lie in the lane's room; see `experts.answers.places`.
    """

    layer: int
    lane: int
    groups: tuple[ShardGroup, ...]
    sent: tuple[Sent, ...]
    failures: tuple[ShardUnavailable, ...]
    places_TW: NDArray[np.int64]
    started_ns: int
    packed_ns: int


@dataclass(frozen=True, slots=True)
class Combined:
    """`y_TD` float32 (zeros where a token's experts are missing), the lost tokens, the failures, the timings."""

    y_TD: Tensor
    lost_tokens: NDArray[np.int64]
    failures: tuple[ShardUnavailable, ...]
    trip: LayerTrip


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
        self.step = 0
        self._timeout_s = call_timeout_s
        # By lane: its calls are combined before it is used again.
        self._lanes: dict[int, tuple[GatherRoom, AnswerRoom]] = {}

    def dispatch(self, layer: int, x_TD: Tensor, routing: Routing, lane: int = 0) -> Dispatched:
        """Send each token's row once to each shard that holds one of its experts, over the connection `lane`.

        A lane's calls are combined before it is used again; other lanes may be in flight meanwhile. All calls are
        packed before the first is sent: a shard that wakes up may take this process's core.
        """
        started = time.monotonic_ns()
        groups = group_by_shard(routing, self.placement)
        x_TD = x_TD.cpu()
        gathering, answers = self._rooms(lane)
        gathered = gathering.rows(x_TD, groups)
        calls = [self._call(layer, x_RD, group) for x_RD, group in zip(gathered, groups, strict=True)]
        parts = answers.parts([call.reply_rows for call in calls], x_TD.shape[1])
        packed = time.monotonic_ns()
        sent, failures = [], []
        for group, call, part_ND in zip(groups, calls, parts, strict=True):
            try:
                sent.append(self.transport.send(group.shard, call, lane, part_ND))
            except ShardUnavailable as error:
                failures.append(error)
        return Dispatched(
            layer=layer,
            lane=lane,
            groups=tuple(groups),
            sent=tuple(sent),
            failures=tuple(failures),
            # The shards compute meanwhile.
            places_TW=places(self.form, groups, *routing.expert_ids_TK.shape),
            started_ns=started,
            packed_ns=packed,
        )

    def combine(self, handle: Dispatched, device: torch.device) -> Combined:
        """Wait for the replies and add them up in a fixed order: the order of arrival must change no bit."""
        waiting_ns = time.monotonic_ns()
        replies, failures = self._collect(handle)
        reducing_ns = time.monotonic_ns()
        lost, places_TW = NO_TOKENS, handle.places_TW
        if len(replies) < len(handle.groups):
            lost, places_TW = self._lose(handle, replies)
        y_TD = self._rooms(handle.lane)[1].sum(places_TW).to(device)
        trip = _trip(handle, replies, waiting_ns, reducing_ns, time.monotonic_ns())
        return Combined(y_TD, lost, handle.failures + tuple(failures), trip)

    def _lose(self, handle: Dispatched, replies: dict[int, Reply]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens of the shards that have not replied, and the places without these."""
        missing = [group.shard not in replies for group in handle.groups]
        lost = [group.tokens_R for group, gone in zip(handle.groups, missing, strict=True) if gone]
        places_TW = without(handle.places_TW, self.form, handle.groups, missing)
        return np.unique(np.concatenate(lost)), places_TW

    def _rooms(self, lane: int) -> tuple[GatherRoom, AnswerRoom]:
        rooms = self._lanes.get(lane)
        if rooms is None:
            rooms = self._lanes[lane] = (GatherRoom(), AnswerRoom())
        return rooms

    def _call(self, layer: int, x_RD: Tensor, group: ShardGroup) -> ExpertCall:
        return ExpertCall(
            layer=layer,
            x_RD=x_RD,
            rows_A=group.rows_A,
            slots_A=group.slots_A,
            weights_A=group.weights_A,
            step=self.step,
            form=self.form,
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
            else:
                failures.append(result)
            del outstanding[result.shard]
        return replies, failures


def _trip(handle: Dispatched, replies: dict[int, Reply], waiting_ns: int, reducing_ns: int, done_ns: int) -> LayerTrip:
    reduce_ns = done_ns - reducing_ns
    sent = {call.shard: call for call in handle.sent}
    calls = [
        measured(handle.started_ns, sent[group.shard], replies[group.shard], reduce_ns, group)
        for group in handle.groups
        if group.shard in replies
    ]
    pack_ns = handle.packed_ns - handle.started_ns
    return LayerTrip(handle.layer, b"".join(calls), pack_ns, reducing_ns - waiting_ns, reduce_ns, waiting_ns)

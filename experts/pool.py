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

from experts.grouping import ShardGroup, group_by_shard
from experts.phases import LayerTrip, measured
from experts.placement import Placement
from experts.routing import Routing
from experts.transport.base import Reply, Sent, ShardUnavailable, Transport
from experts.transport.call import ExpertCall


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A layer in flight: the calls that were sent, beside their `groups`, and those that could not be."""

    layer: int
    tokens: int
    groups: tuple[ShardGroup, ...]
    sent: tuple[Sent, ...]
    failures: tuple[ShardUnavailable, ...]
    failed_groups: tuple[ShardGroup, ...]
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
    """All shards behind one transport. Calls carry `step`, which the engine sets before each step."""

    def __init__(self, transport: Transport, placement: Placement, call_timeout_s: float) -> None:
        self.transport = transport
        self.placement = placement
        self.step = 0
        self._timeout_s = call_timeout_s

    def dispatch(self, layer: int, x_TD: Tensor, routing: Routing, lane: int = 0) -> Dispatched:
        """Send each token's row once to each shard that holds one of its experts, over the connection `lane`.

        A lane's calls are combined before it is used again; other lanes may be in flight meanwhile. All calls are
        packed before the first is sent: a shard that wakes up may take this process's core.
        """
        started = time.monotonic_ns()
        groups = group_by_shard(routing, self.placement)
        x_TD = x_TD.cpu()
        calls = [_call(layer, x_TD, group, self.step) for group in groups]
        packed = time.monotonic_ns()
        called, sent, failures, failed = [], [], [], []
        for group, call in zip(groups, calls, strict=True):
            try:
                sent.append(self.transport.send(group.shard, call, lane))
                called.append(group)
            except ShardUnavailable as error:
                failures.append(error)
                failed.append(group)
        return Dispatched(
            layer=layer,
            tokens=x_TD.shape[0],
            groups=tuple(called),
            sent=tuple(sent),
            failures=tuple(failures),
            failed_groups=tuple(failed),
            started_ns=started,
            packed_ns=packed,
        )

    def combine(self, handle: Dispatched, device: torch.device, hidden: int) -> Combined:
        """Wait for the replies and add them up in the order of the shards: the order of arrival must change no bit."""
        waiting_ns = time.monotonic_ns()
        replies, failures = self._collect(handle)
        reducing_ns = time.monotonic_ns()
        y_TD, lost = torch.zeros((handle.tokens, hidden)), [group.tokens_R for group in handle.failed_groups]
        for group, call in zip(handle.groups, handle.sent, strict=True):
            reply = replies.get(call.shard)
            if reply is None:
                lost.append(group.tokens_R)
            else:
                _add(y_TD, group.tokens_R, reply.partial.y_RD)
        y_TD = y_TD.to(device)
        trip = _trip(handle, replies, waiting_ns, reducing_ns, time.monotonic_ns())
        lost_tokens = np.unique(np.concatenate(lost)) if lost else np.empty(0, dtype=np.int64)
        return Combined(y_TD, lost_tokens, handle.failures + tuple(failures), trip)

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


def _call(layer: int, x_TD: Tensor, group: ShardGroup, step: int) -> ExpertCall:
    all_tokens = len(group.tokens_R) == x_TD.shape[0]  # usual with few shards; saves a copy of all rows
    x_RD = x_TD if all_tokens else x_TD[torch.from_numpy(group.tokens_R)]
    return ExpertCall(layer, x_RD.contiguous(), group.rows_A, group.slots_A, group.weights_A, step)


def _add(y_TD: Tensor, tokens_R: NDArray[np.int64], y_RD: Tensor) -> None:
    if len(tokens_R) == y_TD.shape[0]:
        y_TD += y_RD
    else:
        y_TD[torch.from_numpy(tokens_R)] += y_RD


def _trip(handle: Dispatched, replies: dict[int, Reply], waiting_ns: int, reducing_ns: int, done_ns: int) -> LayerTrip:
    reduce_ns = done_ns - reducing_ns
    calls = [
        measured(handle.started_ns, call, replies[call.shard], reduce_ns, group)
        for group, call in zip(handle.groups, handle.sent, strict=True)
        if call.shard in replies
    ]
    pack_ns = handle.packed_ns - handle.started_ns
    return LayerTrip(handle.layer, b"".join(calls), pack_ns, reducing_ns - waiting_ns, reduce_ns, waiting_ns)

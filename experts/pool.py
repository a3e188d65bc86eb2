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
from experts.transport.base import Answer, Sent, ShardUnavailable, Transport
from experts.transport.call import ExpertCall


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A layer under way: what was asked of whom (`sent` beside its `groups`), and who could not be asked."""

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
    """`y_TD` float32 (zeros where a token's experts are missing), the tokens lost, whose fault it was, the timings."""

    y_TD: Tensor
    lost_tokens: NDArray[np.int64]
    failures: tuple[ShardUnavailable, ...]
    trip: LayerTrip


class ExpertPool:
    """All shards behind one transport. Questions carry `step`, which whoever runs a step sets before it."""

    def __init__(self, transport: Transport, placement: Placement, call_timeout_s: float) -> None:
        self.transport = transport
        self.placement = placement
        self.step = 0
        self._timeout_s = call_timeout_s

    def dispatch(self, layer: int, x_TD: Tensor, routing: Routing) -> Dispatched:
        """Send each token's row once to each shard that holds one of its experts.

        All questions are packed before the first is sent: a woken shard may take this process's core.
        """
        started = time.monotonic_ns()
        groups = group_by_shard(routing, self.placement)
        x_TD = x_TD.cpu()
        calls = [_call(layer, x_TD, group, self.step) for group in groups]
        packed = time.monotonic_ns()
        asked, sent, failures, failed = [], [], [], []
        for group, call in zip(groups, calls, strict=True):
            try:
                sent.append(self.transport.send(group.shard, call))
                asked.append(group)
            except ShardUnavailable as error:
                failures.append(error)
                failed.append(group)
        return Dispatched(
            layer=layer,
            tokens=len(x_TD),
            groups=tuple(asked),
            sent=tuple(sent),
            failures=tuple(failures),
            failed_groups=tuple(failed),
            started_ns=started,
            packed_ns=packed,
        )

    def combine(self, handle: Dispatched, device: torch.device, hidden: int) -> Combined:
        """Wait for the answers and add them up in the order of the shards, whatever the order of arrival."""
        waiting_ns = time.monotonic_ns()
        answers, failures = self._collect(handle)
        reducing_ns = time.monotonic_ns()
        y_TD, lost = torch.zeros((handle.tokens, hidden)), [group.tokens_R for group in handle.failed_groups]
        for group, question in zip(handle.groups, handle.sent, strict=True):
            answer = answers.get(question.shard)
            if answer is None:
                lost.append(group.tokens_R)
            else:
                _add(y_TD, group.tokens_R, answer.partial.y_RD)
        y_TD = y_TD.to(device)
        trip = _trip(handle, answers, waiting_ns, reducing_ns, time.monotonic_ns())
        lost_tokens = np.unique(np.concatenate(lost)) if lost else np.empty(0, dtype=np.int64)
        return Combined(y_TD, lost_tokens, handle.failures + tuple(failures), trip)

    def _collect(self, handle: Dispatched) -> tuple[dict[int, Answer], list[ShardUnavailable]]:
        deadline = time.monotonic() + self._timeout_s
        outstanding = list(handle.sent)
        answers: dict[int, Answer] = {}
        failures: list[ShardUnavailable] = []
        while outstanding:
            result = self.transport.receive(outstanding, deadline)
            if isinstance(result, Answer):
                answers[result.shard] = result
            else:
                failures.append(result)
            outstanding = [question for question in outstanding if question.shard != result.shard]
        return answers, failures


def _call(layer: int, x_TD: Tensor, group: ShardGroup, step: int) -> ExpertCall:
    whole = len(group.tokens_R) == len(x_TD)
    x_RD = x_TD if whole else x_TD[torch.from_numpy(group.tokens_R)]
    return ExpertCall(layer, x_RD.contiguous(), group.rows_A, group.slots_A, group.weights_A, step)


def _add(y_TD: Tensor, tokens_R: NDArray[np.int64], y_RD: Tensor) -> None:
    if len(tokens_R) == len(y_TD):
        y_TD += y_RD
    else:
        y_TD[torch.from_numpy(tokens_R)] += y_RD


def _trip(handle: Dispatched, answers: dict[int, Answer], waiting_ns: int, reducing_ns: int, done_ns: int) -> LayerTrip:
    reduce_ns = done_ns - reducing_ns
    calls = [
        measured(handle.started_ns, question, answers[question.shard], reduce_ns, group)
        for group, question in zip(handle.groups, handle.sent, strict=True)
        if question.shard in answers
    ]
    pack_ns = handle.packed_ns - handle.started_ns
    return LayerTrip(handle.layer, b"".join(calls), pack_ns, reducing_ns - waiting_ns, reduce_ns, waiting_ns)

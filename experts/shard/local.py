"""Shards in this process: the reference that every other transport is tested against, and the way of a single GPU."""

import time
from collections.abc import Mapping

import torch

from experts.shard.shard import ExpertShard
from experts.transport.base import Answer, Sent, ShardUnavailable
from experts.transport.call import ExpertCall, Partial, Stamps


class LocalTransport:
    """Computes a question when its answer is asked for."""

    def __init__(self, shards: Mapping[int, ExpertShard]) -> None:
        self._shards = dict(shards)
        self._calls: dict[int, tuple[ExpertCall, int]] = {}

    def available(self, shard: int) -> bool:
        """Whether the shard lives here."""
        return shard in self._shards

    def clock_error_s(self, shard: int) -> float:  # noqa: ARG002 (one process, one clock)
        """See `Transport.clock_error_s`."""
        return 0.0

    def send(self, shard: int, call: ExpertCall) -> Sent:
        """Keep the question; see `Transport.send`."""
        if shard not in self._shards:
            raise ShardUnavailable(shard, "eof", f"shard {shard} is not in this process")
        now = time.monotonic_ns()
        self._calls[shard] = call, now
        return Sent(shard, 0, len(call.x_RD), now, 0)

    def receive(self, sent: list[Sent], deadline_s: float) -> Answer | ShardUnavailable:  # noqa: ARG002 (cannot be late)
        """Compute the first question; see `Transport.receive`. Until its turn comes a question is in the queue."""
        shard = sent[0].shard
        call, asked = self._calls.pop(shard)
        started = time.monotonic_ns()
        with torch.inference_mode():
            y_RD = self._shards[shard].compute(call)
        now = time.monotonic_ns()
        return Answer(shard, Partial(y_RD, Stamps(asked, started, now)), now, 0)

    def close(self) -> None:
        """Nothing to hang up."""

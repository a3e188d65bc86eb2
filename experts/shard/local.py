"""Shards in this process: the reference that every other transport is tested against."""

import time
from collections.abc import Mapping

import torch

from experts.shard.shard import ExpertShard
from experts.transport.base import Reply, Sent, ShardUnavailable
from experts.transport.call import ExpertCall, Partial, Stamps


class LocalTransport:
    """Computes a call when its reply is requested."""

    def __init__(self, shards: Mapping[int, ExpertShard]) -> None:
        self._shards = dict(shards)
        self._calls: dict[tuple[int, int], tuple[ExpertCall, int]] = {}

    def available(self, shard: int) -> bool:
        """Whether the shard is in this process."""
        return shard in self._shards

    def clock_error_s(self, shard: int) -> float:  # noqa: ARG002 (one process, one clock)
        """See `Transport.clock_error_s`."""
        return 0.0

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """Keep the call; see `Transport.send`."""
        if shard not in self._shards:
            raise ShardUnavailable(shard, "eof", f"shard {shard} is not in this process")
        now = time.monotonic_ns()
        self._calls[shard, lane] = call, now
        return Sent(shard, 0, call.reply_rows, now, 0, lane, call.form)

    def receive(self, sent: Mapping[int, Sent], deadline_s: float) -> Reply | ShardUnavailable:  # noqa: ARG002 (cannot be late)
        """Compute the first call; see `Transport.receive`. The time until its turn counts as queueing."""
        one = next(iter(sent.values()))
        shard = one.shard
        call, received = self._calls.pop((shard, one.lane))
        started = time.monotonic_ns()
        with torch.inference_mode():
            y_ND = self._shards[shard].compute(call)
        now = time.monotonic_ns()
        return Reply(shard, Partial(y_ND, Stamps(received, started, now), form=call.form), now, 0)

    def close(self) -> None:
        """There is nothing to close."""

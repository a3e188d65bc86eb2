"""Shards in this process: the reference that every other transport is tested against."""

import time
from collections.abc import Mapping
from itertools import count

import torch

from experts.links.record import FailureRecord
from experts.links.state import LinkState
from experts.shard.shard import ExpertShard
from experts.transport.base import Event, Reply, Sent, ShardUnavailable
from experts.transport.call import ExpertCall, Partial, Stamps


class LocalTransport:
    """Computes a call when an event is asked for, the oldest first."""

    def __init__(self, shards: Mapping[int, ExpertShard]) -> None:
        self.record = FailureRecord()
        self._shards = dict(shards)
        self._calls: dict[int, tuple[Sent, ExpertCall]] = {}
        self._numbers = count(1)

    def state(self, shard: int) -> LinkState:
        """LIVE if the shard is in this process."""
        return LinkState.LIVE if self.available(shard) else LinkState.DEAD

    def available(self, shard: int) -> bool:
        """Whether the shard is in this process."""
        return shard in self._shards

    def rank(self, shard: int) -> int:
        """See `Transport.rank`."""
        return self.state(shard).rank

    def has_room(self, shard: int) -> bool:  # noqa: ARG002 (as much as there is memory)
        """See `Transport.has_room`."""
        return True

    def clock_error_s(self, shard: int) -> float:  # noqa: ARG002 (one process, one clock)
        """See `Transport.clock_error_s`."""
        return 0.0

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """Keep the call; see `Transport.send`."""
        if not self.available(shard):
            raise ShardUnavailable(shard, "eof", f"shard {shard} is not in this process")
        number, now, hidden = next(self._numbers), time.monotonic_ns(), call.x_RD.shape[1]
        sent = Sent(shard, number, call.reply_rows, now, 0, lane, call.form, hidden)
        self._calls[sent.sequence] = sent, call
        return sent

    def receive(self, until_s: float) -> Event | None:  # noqa: ARG002 (cannot be late)
        """Compute the first call; see `Transport.receive`. The time until its turn counts as queueing."""
        if not self._calls:
            return None
        return self.compute(next(iter(self._calls)))

    def compute(self, sequence: int) -> Reply:
        """Compute one of the open calls."""
        sent, call = self._calls.pop(sequence)
        started = time.monotonic_ns()
        with torch.inference_mode():
            y_ND = self._shards[sent.shard].compute(call)
        now = time.monotonic_ns()
        return Reply(sent.shard, sequence, Partial(y_ND, Stamps(sent.sent_ns, started, now), form=call.form), now, 0)

    def late(self, sent: Sent) -> None:
        """A call is computed when it is asked for."""

    def cancel(self, sent: Sent) -> None:
        """Drop the call."""
        self._calls.pop(sent.sequence, None)

    def give_up(self, shard: int, reason: str) -> None:
        """There is no connection to end."""

    def close(self) -> None:
        """There is nothing to close."""

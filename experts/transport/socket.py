"""Shards behind unix or TCP sockets, driven by the engine's own blocking thread.

A shard has a channel for each lane. It reads each on a thread of its own, so a call that waits there for another one is
stamped when it arrives: its wait counts as queueing and not as transfer.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from experts.transport.base import Reply, Sent, ShardUnavailable
from experts.transport.call import ExpertCall, call_bytes, pack_call, reply_bytes, unpack_partial
from experts.transport.channel import Channel
from experts.transport.clock import HALF_MINUTE_NS, ShardClock
from experts.transport.control import Failure
from experts.transport.frame import HEADER, FrameError, Kind
from experts.transport.ready import ReadyShards


@dataclass(frozen=True, slots=True)
class _Connection:
    """The channels to one incarnation of a shard."""

    channels: tuple[Channel, ...]

    def channel(self, lane: int) -> Channel:
        """The lane's. Where lanes share one, its replies come in the order of the calls."""
        return self.channels[lane % len(self.channels)]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


class SocketTransport:
    """Another thread hands new connections to `offer`; a broken one is dropped where it fails.

    An offered connection is taken up before the next call, by the calling thread. Calls in flight on the one that it
    replaces are lost.

    Args:
        lanes: connections to each shard. Further lanes share them.
        half_ns: see `ShardClock`.
        ready: makes what waits for the connections of a lane; a benchmark compares another one.
    """

    def __init__(
        self, lanes: int = 1, half_ns: int = HALF_MINUTE_NS, ready: Callable[[], ReadyShards] = ReadyShards
    ) -> None:
        self.lanes = lanes
        self._half_ns = half_ns
        self._connections: dict[int, _Connection] = {}
        self._offered: dict[int, tuple[Channel, ...]] = {}
        self._ready = [ready() for _ in range(lanes)]
        # Calls in flight by shard and lane, and those whose connection has gone: they fail with no look at the others.
        self._outstanding: set[tuple[int, int]] = set()
        self._lost: set[tuple[int, int]] = set()
        self._clocks: dict[int, tuple[int, ShardClock]] = {}
        self._lock = threading.Lock()
        self._sequence = 0

    def offer(self, shard: int, *channels: Channel) -> None:
        """Use `channels`, one for each lane, for `shard` from the next call on. Any thread may call this.

        Raises:
            ValueError: there are more or fewer channels than lanes.
        """
        if len(channels) != self.lanes:
            raise ValueError(f"shard {shard} is offered {len(channels)} channels, it must be {self.lanes}: one a lane")
        with self._lock:
            unused, self._offered[shard] = self._offered.get(shard, ()), channels
        for channel in unused:  # offered twice before a call was made: the older one was never used
            channel.close()

    def incarnation(self, shard: int) -> int | None:
        """Which incarnation of the shard we are connected to, or about to be."""
        if offered := self._offered.get(shard):
            return offered[0].incarnation
        connection = self._connections.get(shard)
        return None if connection is None else connection.channels[0].incarnation

    def available(self, shard: int) -> bool:
        """Whether there is a connection."""
        return shard in self._offered or shard in self._connections

    def clock_error_s(self, shard: int) -> float:
        """See `Transport.clock_error_s`."""
        known = self._clocks.get(shard)
        return known[1].error_ns / 1e9 if known else 0.0

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """See `Transport.send`."""
        connection = self._take_up(shard)
        if connection is None:
            raise _not_connected(shard)
        channel = connection.channel(lane)
        self._sequence += 1
        parts, now = pack_call(call, channel.shared and channel.shared.calls), time.monotonic_ns()
        try:
            channel.send(Kind.EXPERTS, self._sequence, parts)
        except OSError as error:
            raise self._drop(shard, error) from error
        self._outstanding.add((shard, lane))
        self._lost.discard((shard, lane))
        wire_bytes = HEADER.size + call_bytes(call)
        return Sent(shard, self._sequence, call.reply_rows, now, wire_bytes, lane, call.form)

    def receive(self, sent: Mapping[int, Sent], deadline_s: float) -> Reply | ShardUnavailable:
        """See `Transport.receive`."""
        result = self._next_of(sent, deadline_s)
        if isinstance(result, Reply):
            self._outstanding.discard((result.shard, sent[result.shard].lane))
        return result

    def _next_of(self, sent: Mapping[int, Sent], deadline_s: float) -> Reply | ShardUnavailable:
        for shard, lane in tuple(self._lost):  # a copy: `close` may add to it
            if shard in sent and sent[shard].lane == lane:
                return _not_connected(shard)
        first = next(iter(sent.values()))
        ready = self._ready[first.lane % self.lanes].next_of(sent, deadline_s)
        shard = first.shard if ready is None else ready
        connection = self._connections.get(shard)
        if connection is None:  # `close` was called while this thread waited
            return _not_connected(shard)
        if ready is None:
            return self._drop(shard, TimeoutError("no reply in time"))
        try:
            return self._read(sent[shard], connection.channel(first.lane))
        except (OSError, ValueError) as error:
            return self._drop(shard, error)

    def close(self) -> None:
        """Close all connections."""
        offered, self._offered = self._offered, {}
        for shard in list(self._connections):
            self._forget(shard)
        for channels in offered.values():
            _Connection(channels).close()

    def _take_up(self, shard: int) -> _Connection | None:
        if shard in self._offered:
            with self._lock:
                old, new = self._connections.get(shard), _Connection(self._offered[shard])
                self._connections[shard] = new
                del self._offered[shard]  # last, so that no other thread sees the shard without a connection
            for ready, channel in zip(self._ready, new.channels, strict=True):
                ready.add(shard, channel.fileno())
            if old is not None:
                self._lose(shard)
                old.close()
        return self._connections.get(shard)

    def _lose(self, shard: int) -> None:
        """Fail what is in flight: its connection has gone."""
        self._lost.update(call for call in tuple(self._outstanding) if call[0] == shard)

    def _forget(self, shard: int) -> None:
        connection = self._connections.pop(shard, None)
        for ready in self._ready:
            ready.remove(shard)
        self._lose(shard)
        if connection is not None:
            connection.close()

    def _read(self, call: Sent, channel: Channel) -> Reply:
        header, payload = channel.receive()
        now = time.monotonic_ns()
        if header.kind is Kind.FAILURE:
            raise ValueError(Failure.unpacked(payload).text)
        if header.kind in (Kind.MISS, Kind.BUSY):
            raise ValueError(f"the shard cannot take this call: {header.kind.name}")
        if header.kind is not Kind.PARTIALS or header.sequence != call.sequence:
            raise FrameError("sequence", f"reply {header.sequence} to call {call.sequence}")
        partial = unpack_partial(payload, channel.shared and channel.shared.replies)
        if (partial.form, partial.y_ND.shape[0]) != (call.form, call.rows):
            found = f"{len(partial.y_ND)} rows of form {partial.form.name}"
            raise FrameError("length", f"a reply of {found} where {call.rows} of {call.form.name} were asked for")
        if not channel.same_host:  # on one host both sides read the same clock
            clock = self._clock(call.shard, channel.incarnation)
            partial = replace(partial, stamps=clock.corrected(call.sent_ns, partial.stamps, now))
        return Reply(call.shard, partial, now, HEADER.size + reply_bytes(partial))

    def _clock(self, shard: int, incarnation: int) -> ShardClock:
        """The clock of this incarnation of the shard: the next one may be on another host."""
        known = self._clocks.get(shard)
        if known is None or known[0] != incarnation:
            known = self._clocks[shard] = (incarnation, ShardClock(self._half_ns))
        return known[1]

    def _drop(self, shard: int, error: Exception) -> ShardUnavailable:
        # Closed even after a timeout: a late reply would arrive where the reply to the next call is expected.
        self._forget(shard)
        return ShardUnavailable(shard, _reason(error), f"shard {shard}: {error}")


def _not_connected(shard: int) -> ShardUnavailable:
    return ShardUnavailable(shard, "eof", f"shard {shard} is not connected")


def _reason(error: Exception) -> str:
    if isinstance(error, FrameError):
        return error.reason
    return "timeout" if isinstance(error, TimeoutError) else "eof" if isinstance(error, OSError) else "error"

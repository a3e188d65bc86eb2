"""Shards behind unix or TCP sockets, one connection each, driven by the engine's own blocking thread."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from experts.transport.base import Reply, Sent, ShardUnavailable
from experts.transport.call import ExpertCall, pack_call, unpack_partial
from experts.transport.channel import Channel
from experts.transport.clock import HALF_MINUTE_NS, ShardClock
from experts.transport.frame import FrameError, Kind
from experts.transport.ready import ReadyShards


class SocketTransport:
    """Another thread hands new connections to `offer`; a broken one is dropped where it fails.

    An offered connection is taken up before the next call, by the calling thread, so none changes during a call.

    Args:
        half_ns: see `ShardClock`.
        ready: what waits for the connections; a benchmark compares another one.
    """

    def __init__(self, half_ns: int = HALF_MINUTE_NS, ready: ReadyShards | None = None) -> None:
        self._half_ns = half_ns
        self._channels: dict[int, Channel] = {}
        self._offered: dict[int, Channel] = {}
        # Shards whose connection broke: calls that are outstanding there fail, with no look at all the others.
        self._lost: set[int] = set()
        self._ready = ready or ReadyShards()
        self._clocks: dict[int, tuple[int, ShardClock]] = {}
        self._lock = threading.Lock()
        self._sequence = 0

    def offer(self, shard: int, channel: Channel) -> None:
        """Use `channel` for `shard` from the next call on. Any thread may call this."""
        with self._lock:
            unused, self._offered[shard] = self._offered.get(shard), channel
        if unused is not None:  # offered twice before a call was made: the older one was never used
            unused.close()

    def incarnation(self, shard: int) -> int | None:
        """Which incarnation of the shard we are connected to, or about to be."""
        channel = self._offered.get(shard) or self._channels.get(shard)
        return None if channel is None else channel.incarnation

    def available(self, shard: int) -> bool:
        """Whether there is a connection."""
        return shard in self._offered or shard in self._channels

    def clock_error_s(self, shard: int) -> float:
        """See `Transport.clock_error_s`."""
        known = self._clocks.get(shard)
        return known[1].error_ns / 1e9 if known else 0.0

    def send(self, shard: int, call: ExpertCall) -> Sent:
        """See `Transport.send`."""
        channel = self._take_up(shard)
        if channel is None:
            raise _not_connected(shard)
        self._sequence += 1
        before, parts, now = channel.sent_bytes, pack_call(call), time.monotonic_ns()
        try:
            channel.send(Kind.EXPERTS, self._sequence, parts)
        except OSError as error:
            raise self._drop(shard, channel, error) from error
        return Sent(shard, self._sequence, len(call.x_RD), now, channel.sent_bytes - before)

    def receive(self, sent: Mapping[int, Sent], deadline_s: float) -> Reply | ShardUnavailable:
        """See `Transport.receive`."""
        for shard in self._lost:
            if shard in sent:
                return _not_connected(shard)
        ready = self._ready.next_of(sent, deadline_s)
        shard = next(iter(sent)) if ready is None else ready
        channel = self._channels.get(shard)
        if channel is None:  # `close` was called while this thread waited
            return _not_connected(shard)
        if ready is None:
            return self._drop(shard, channel, TimeoutError("no reply in time"))
        try:
            return self._read(sent[shard], channel)
        except (OSError, ValueError) as error:
            return self._drop(shard, channel, error)

    def close(self) -> None:
        """Close all connections."""
        channels = [*self._channels.values(), *self._offered.values()]
        self._lost.update(self._channels)
        for shard in self._channels:
            self._ready.remove(shard)
        self._channels, self._offered = {}, {}
        for channel in channels:
            channel.close()

    def _take_up(self, shard: int) -> Channel | None:
        if shard in self._offered:
            with self._lock:
                old, self._channels[shard] = self._channels.get(shard), self._offered[shard]
                del self._offered[shard]  # last, so that no other thread sees the shard without a connection
            self._ready.add(shard, self._channels[shard].fileno())
            if old is not None:
                old.close()
            self._lost.discard(shard)
        return self._channels.get(shard)

    def _read(self, call: Sent, channel: Channel) -> Reply:
        before = channel.received_bytes
        header, payload = channel.receive()
        now = time.monotonic_ns()
        if header.kind is Kind.FAILURE:
            raise ValueError(bytes(payload).decode(errors="replace"))
        if header.kind is not Kind.PARTIALS or header.sequence != call.sequence:
            raise FrameError("sequence", f"reply {header.sequence} to call {call.sequence}")
        partial = unpack_partial(payload)
        if len(partial.y_RD) != call.rows:
            raise FrameError("length", f"a reply of {len(partial.y_RD)} rows to a call of {call.rows}")
        if not channel.same_host:  # on one host both sides read the same clock
            clock = self._clock(call.shard, channel.incarnation)
            partial = replace(partial, stamps=clock.corrected(call.sent_ns, partial.stamps, now))
        return Reply(call.shard, partial, now, channel.received_bytes - before)

    def _clock(self, shard: int, incarnation: int) -> ShardClock:
        """The clock of this incarnation of the shard: the next one may be on another host."""
        known = self._clocks.get(shard)
        if known is None or known[0] != incarnation:
            known = self._clocks[shard] = (incarnation, ShardClock(self._half_ns))
        return known[1]

    def _drop(self, shard: int, channel: Channel, error: Exception) -> ShardUnavailable:
        # Closed even after a timeout: a late reply would arrive where the reply to the next call is expected.
        self._channels.pop(shard, None)
        self._ready.remove(shard)
        self._lost.add(shard)
        channel.close()
        return ShardUnavailable(shard, _reason(error), f"shard {shard}: {error}")


def _not_connected(shard: int) -> ShardUnavailable:
    return ShardUnavailable(shard, "eof", f"shard {shard} is not connected")


def _reason(error: Exception) -> str:
    if isinstance(error, FrameError):
        return error.reason
    return "timeout" if isinstance(error, TimeoutError) else "eof" if isinstance(error, OSError) else "error"

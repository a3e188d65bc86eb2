"""Shards behind unix or TCP sockets, driven by the engine's own blocking thread.

A shard has a channel for each lane. It reads each on a thread of its own, so a call that waits there for another one is
stamped when it arrives: its wait counts as queueing and not as transfer.
"""

import select
import threading
import time
from dataclasses import dataclass, replace

from experts.transport.base import Reply, Sent, ShardUnavailable
from experts.transport.call import ExpertCall, pack_call, unpack_partial
from experts.transport.channel import Channel
from experts.transport.clock import HALF_MINUTE_NS, ShardClock
from experts.transport.frame import FrameError, Kind


@dataclass(frozen=True, slots=True)
class _Connection:
    """The channels to one incarnation of a shard. Calls up to number `since` were sent on an earlier one."""

    channels: tuple[Channel, ...]
    since: int

    def channel(self, lane: int) -> Channel:
        """The lane's; lanes share channels where there are fewer of them. A channel's replies come in order."""
        return self.channels[lane % len(self.channels)]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


class SocketTransport:
    """Another thread hands new connections to `offer`; a broken one is dropped where it fails.

    An offered connection is taken up before the next call, by the calling thread. Calls in flight on the one that it
    replaces fail. `half_ns`: see `ShardClock`.
    """

    def __init__(self, half_ns: int = HALF_MINUTE_NS) -> None:
        self._half_ns = half_ns
        self._connections: dict[int, _Connection] = {}
        self._offered: dict[int, tuple[Channel, ...]] = {}
        self._clocks: dict[int, tuple[int, ShardClock]] = {}
        self._lock = threading.Lock()
        self._sequence = 0

    def offer(self, shard: int, *channels: Channel) -> None:
        """Use `channels`, one for each lane, for `shard` from the next call on. Any thread may call this."""
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
            raise ShardUnavailable(shard, "eof", f"shard {shard} is not connected")
        channel = connection.channel(lane)
        self._sequence += 1
        before, parts, now = channel.sent_bytes, pack_call(call), time.monotonic_ns()
        try:
            channel.send(Kind.EXPERTS, self._sequence, parts)
        except OSError as error:
            raise self._drop(shard, error) from error
        return Sent(shard, self._sequence, len(call.x_RD), now, channel.sent_bytes - before, lane)

    def receive(self, sent: list[Sent], deadline_s: float) -> Reply | ShardUnavailable:
        """See `Transport.receive`."""
        waiting = {}
        for one in sent:
            connection = self._connections.get(one.shard)
            if connection is None or one.sequence <= connection.since:
                return ShardUnavailable(one.shard, "eof", f"shard {one.shard}: the connection of the call has ended")
            channel = connection.channel(one.lane)
            waiting[channel.fileno()] = (one, channel)
        ready = self._poll(list(waiting), deadline_s)
        if ready is None:
            return self._drop(sent[0].shard, TimeoutError("no reply in time"))
        one, channel = waiting[ready]
        try:
            return self._read(one, channel)
        except (OSError, ValueError) as error:
            return self._drop(one.shard, error)

    def close(self) -> None:
        """Close all connections."""
        connections = [*self._connections.values(), *(_Connection(offered, 0) for offered in self._offered.values())]
        self._connections, self._offered = {}, {}
        for connection in connections:
            connection.close()

    def _take_up(self, shard: int) -> _Connection | None:
        if shard in self._offered:
            with self._lock:
                old, offered = self._connections.get(shard), self._offered[shard]
                self._connections[shard] = _Connection(offered, self._sequence)
                del self._offered[shard]  # last, so that no other thread sees the shard without a connection
            if old is not None:
                old.close()
        return self._connections.get(shard)

    def _poll(self, descriptors: list[int], deadline_s: float) -> int | None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(max(0.0, deadline_s - time.monotonic()) * 1e3)
        return events[0][0] if events else None

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

    def _drop(self, shard: int, error: Exception) -> ShardUnavailable:
        # Closed even after a timeout: a late reply would arrive where the reply to the next call is expected.
        if (connection := self._connections.pop(shard, None)) is not None:
            connection.close()
        return ShardUnavailable(shard, _reason(error), f"shard {shard}: {error}")


def _reason(error: Exception) -> str:
    if isinstance(error, FrameError):
        return error.reason
    return "timeout" if isinstance(error, TimeoutError) else "eof" if isinstance(error, OSError) else "error"

"""Shards behind unix or TCP sockets, driven by the engine's own thread, which waits for nothing but answers.

A shard has a channel for each lane, which carries calls and replies, and one beside them for what must not queue
behind data: cancels here, beats and status with whoever watches the link.
"""

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from experts.links.asks import OpenAsks
from experts.links.record import FailureRecord
from experts.links.state import LinkState
from experts.links.table import Links
from experts.transport.base import Event, Refusal, Reply, Sent, ShardUnavailable, Why
from experts.transport.call import INLINE_BYTES, ExpertCall, call_bytes, pack_call, reply_bytes, unpack_partial
from experts.transport.channel import Channel
from experts.transport.clock import HALF_MINUTE_NS, ShardClock
from experts.transport.control import Busy, Failure, Miss
from experts.transport.frame import HEADER, FrameError, Header, Kind
from experts.transport.ready import Ready

Key = tuple[int, int]  # a shard, and the number of its channel


@dataclass(frozen=True, slots=True)
class _Connection:
    """The channels to one incarnation of a shard, as the link's connection `number`."""

    channels: tuple[Channel, ...]
    control: Channel | None
    number: int
    asks: OpenAsks[Sent] = field(default_factory=OpenAsks)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


class SocketTransport:
    """Another thread hands new connections to `offer`; a broken one is dropped where it fails.

    An offered connection is taken up before the next call, by the calling thread. Calls in flight on the one that it
    replaces are lost. Nothing but `receive` waits, and that for answers only: what a shard does not take at once is
    sent when it does.

    Args:
        lanes: connections to each shard. Further lanes share them.
        half_ns: see `ShardClock`.
        ready: makes what waits for the connections; a benchmark compares another one.

    `links` are the links' states, which a watcher feeds with beats; without one they are PROVEN while connected.
    """

    def __init__(self, lanes: int = 1, half_ns: int = HALF_MINUTE_NS, ready: Callable[[], Ready[Key]] = Ready) -> None:
        self.lanes = lanes
        self.record = FailureRecord()
        self.links = Links(self.record)
        self.links.listen(self._changed)
        self._half_ns = half_ns
        self._ready = ready()
        self._connections: dict[int, _Connection] = {}
        self._offered: dict[int, _Connection] = {}
        self._clocks: dict[int, tuple[int, ShardClock]] = {}
        # Links whose state has changed; channels that have something to read; what has become of lost calls.
        self._stale: set[int] = set()
        self._readable: dict[Key, None] = {}
        self._failed: deque[ShardUnavailable] = deque()
        self._lock = threading.Lock()
        self._sequence = 0

    def offer(self, shard: int, *channels: Channel, control: Channel | None = None) -> int:
        """Use `channels`, one for each lane, for `shard` from the next call on. Any thread may call this.

        Args:
            control: what cancels are sent on; whoever offers it closes it.

        Returns the number of the link's connection. Raises:
            ValueError: there are more or fewer channels than lanes.
        """
        if len(channels) != self.lanes:
            raise ValueError(f"shard {shard} is offered {len(channels)} channels, it must be {self.lanes}: one a lane")
        with self._lock:
            unused, number = self._offered.get(shard), self.links.connected(shard)
            self._offered[shard] = _Connection(channels, control, number)
        self._stale.add(shard)
        self._ready.wake()
        if unused is not None:  # offered twice before a call was made: the older one was never used
            unused.close()
        return number

    def incarnation(self, shard: int) -> int | None:
        """Which incarnation of the shard we are connected to, or about to be."""
        connection = self._offered.get(shard) or self._connections.get(shard)
        if connection is None or not self.links.state(shard).usable:
            return None
        return connection.channels[0].incarnation

    def state(self, shard: int) -> LinkState:
        """See `Transport.state`."""
        return self.links.state(shard)

    def available(self, shard: int) -> bool:
        """Whether there is a connection, as far as is known."""
        return self.links.state(shard).usable and (shard in self._offered or shard in self._connections)

    def rank(self, shard: int) -> int:
        """See `Transport.rank`."""
        return self.links.rank(shard)

    def has_room(self, shard: int) -> bool:
        """See `Transport.has_room`."""
        connection = self._connections.get(shard)
        return connection is None or connection.asks.has_room(time.monotonic())

    def clock_error_s(self, shard: int) -> float:
        """See `Transport.clock_error_s`."""
        known = self._clocks.get(shard)
        return known[1].error_ns / 1e9 if known else 0.0

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """See `Transport.send`."""
        connection = self._take_up(shard)
        if connection is None or not self.links.state(shard).usable:
            raise ShardUnavailable(shard, "eof", f"shard {shard} is not connected")
        if not self.has_room(shard):
            raise ShardUnavailable(shard, "busy", f"shard {shard} has {len(connection.asks)} calls open")
        # Where lanes share a channel, its calls are answered in their order.
        number = lane % len(connection.channels)
        channel = connection.channels[number]
        region = channel.shared.calls if channel.shared and connection.asks.may_share(number) else None
        self._sequence += 1
        parts, now = pack_call(call, region), time.monotonic_ns()
        wire_bytes, hidden = HEADER.size + call_bytes(call), call.x_RD.shape[1]
        sent = Sent(shard, self._sequence, call.reply_rows, now, wire_bytes, lane, call.form, hidden)
        shares = region is not None and INLINE_BYTES < call.x_RD.nbytes <= len(region)
        try:
            complete = channel.post(Kind.EXPERTS, sent.sequence, parts)
        except OSError as error:
            self._drop(shard, error)
            raise ShardUnavailable(shard, _reason(error), f"shard {shard}: {error}") from error
        connection.asks.add(sent.sequence, sent, number, shares)
        if not complete:
            self._ready.writing((shard, number), wanted=True)
        return sent

    def receive(self, until_s: float) -> Event | None:
        """See `Transport.receive`."""
        while True:
            changed = self._forget_stale()
            while self._readable and not self._failed:
                if (event := self._read_one(next(iter(self._readable)))) is not None:
                    return event
            if self._failed:
                return self._failed.popleft()
            if changed:
                return None
            found = self._ready.wait(until_s)
            for key, events in found:
                if events & select.EPOLLOUT:
                    self._flush(key)
                if events & ~select.EPOLLOUT:
                    self._readable[key] = None
            if not found and not self._stale and time.monotonic() >= until_s:
                return None

    def late(self, sent: Sent) -> None:
        """See `Transport.late`."""
        connection = self._connections.get(sent.shard)
        ask = connection and connection.asks.get(sent.sequence)
        if connection and ask and not ask.late:
            ask.late = True
            self.links.late(sent.shard, connection.number, sent.sequence)

    def cancel(self, sent: Sent) -> None:
        """See `Transport.cancel`."""
        connection = self._connections.get(sent.shard)
        if connection is None or (ask := connection.asks.get(sent.sequence)) is None:
            return
        self._settle(connection, sent, ask.late)
        connection.asks.abandon(sent.sequence, time.monotonic())
        self.record.cancels += 1
        if connection.control is not None:
            with contextlib.suppress(OSError):  # whoever watches it sees that it has ended
                connection.control.post(Kind.CANCEL, sent.sequence, [])

    def give_up(self, shard: int, reason: str) -> None:
        """See `Transport.give_up`."""
        self._drop(shard, ShardUnavailable(shard, reason, "no reply in time"))

    def close(self) -> None:
        """Close all connections."""
        offered, self._offered = self._offered, {}
        for shard in list(self._connections):
            self._drop(shard, ConnectionError("the router ends"))
        for connection in offered.values():
            connection.close()
        self._ready.close()

    def _changed(self, shard: int) -> None:
        """A link's state has changed, on any thread: whoever waits for answers is to look again."""
        self._stale.add(shard)
        self._ready.wake()

    def _forget_stale(self) -> bool:
        """Drop connections whose links have died or have been replaced; whether a link with open calls has changed."""
        changed = False
        while self._stale:
            shard = self._stale.pop()
            connection = self._connections.get(shard)
            if connection is None:
                continue
            changed = changed or len(connection.asks) > 0
            if connection.number != self.links.number(shard):
                self._drop(shard, ConnectionError("the connection has been replaced"))
            elif not self.links.state(shard).usable:
                reason = self.links.reason(shard)
                self._drop(shard, ShardUnavailable(shard, reason, f"the link is dead ({reason})"))
        return changed

    def _take_up(self, shard: int) -> _Connection | None:
        if shard in self._offered:
            with self._lock:
                new = self._offered[shard]
                if shard in self._connections:
                    self._drop(shard, ConnectionError("the connection has been replaced"))
                self._connections[shard] = new
                del self._offered[shard]  # last, so that no other thread sees the shard without a connection
                self._stale.discard(shard)
            for number, channel in enumerate(new.channels):
                self._ready.add((shard, number), channel.fileno())
        return self._connections.get(shard)

    def _drop(self, shard: int, error: Exception) -> None:
        """Close a connection, and fail what is open on it. Only that link ends: a new connection may be there."""
        connection = self._connections.pop(shard, None)
        if connection is None:
            return
        reason, text = _reason(error), f"shard {shard}: {error}"
        for number in range(len(connection.channels)):
            self._ready.remove((shard, number))
            self._readable.pop((shard, number), None)
        for sequence in connection.asks:
            if connection.asks.get(sequence) is not None:
                self._failed.append(ShardUnavailable(shard, reason, text, sequence))
        connection.close()
        self.links.ended(shard, connection.number, reason)

    def _flush(self, key: Key) -> None:
        connection = self._connections.get(key[0])
        if connection is not None:
            try:
                if connection.channels[key[1]].flush():
                    self._ready.writing(key, wanted=False)
            except OSError as error:
                self._drop(key[0], error)

    def _read_one(self, key: Key) -> Event | None:
        """The next frame of a channel that has something to read, as an event; None if it is none for us."""
        shard, number = key
        connection = self._connections[shard]
        channel = connection.channels[number]
        try:
            frame = channel.poll()
            if frame is None or not channel.read_ahead:
                del self._readable[key]
            return None if frame is None else self._event(connection, number, *frame)
        except (OSError, ValueError) as error:
            self._drop(shard, error)
            return None

    def _event(self, connection: _Connection, number: int, header: Header, payload: memoryview) -> Event | None:
        now = time.monotonic_ns()
        ask = connection.asks.get(header.sequence)
        event: Event | None = None
        if ask is not None:
            event = self._parsed(ask.call, connection.channels[number], header, payload, now)
            self._settle(connection, ask.call, ask.late)
        elif header.kind not in _REPLIES:
            raise FrameError("kind", f"a shard does not send {header.kind.name} frames where calls are answered")
        else:
            self.record.late_answers += 1
        # After parsing: what cannot be parsed ends the connection, and the call with it.
        connection.asks.answered(header.sequence, number)
        return event

    def _settle(self, connection: _Connection, sent: Sent, late: bool) -> None:
        if late:
            self.links.settled(sent.shard, connection.number, sent.sequence)

    def _parsed(self, sent: Sent, channel: Channel, header: Header, payload: memoryview, now: int) -> Event:
        if header.kind is Kind.PARTIALS:
            return self._reply(sent, channel, payload, now)
        return _refusal(sent, header.kind, payload)

    def _reply(self, sent: Sent, channel: Channel, payload: memoryview, now: int) -> Reply:
        partial = unpack_partial(payload, channel.shared and channel.shared.replies)
        if (partial.form, *partial.y_ND.shape) != (sent.form, sent.rows, sent.hidden):
            found = f"{tuple(partial.y_ND.shape)} of form {partial.form.name}"
            wanted = f"{(sent.rows, sent.hidden)} of {sent.form.name}"
            raise FrameError("length", f"a reply of {found} where {wanted} was asked for")
        if not channel.same_host:  # on one host both sides read the same clock
            clock = self._clock(sent.shard, channel.incarnation)
            partial = replace(partial, stamps=clock.corrected(sent.sent_ns, partial.stamps, now))
        return Reply(sent.shard, sent.sequence, partial, now, HEADER.size + reply_bytes(partial))

    def _clock(self, shard: int, incarnation: int) -> ShardClock:
        """The clock of this incarnation of the shard: the next one may be on another host."""
        known = self._clocks.get(shard)
        if known is None or known[0] != incarnation:
            known = self._clocks[shard] = (incarnation, ShardClock(self._half_ns))
        return known[1]


_REPLIES: Sequence[Kind] = (Kind.PARTIALS, Kind.MISS, Kind.BUSY, Kind.FAILURE)


def _refusal(sent: Sent, kind: Kind, payload: memoryview) -> Refusal:
    shard, sequence = sent.shard, sent.sequence
    if kind is Kind.MISS:
        miss = Miss.unpacked(payload)
        text = f"shard {shard} does not hold experts {', '.join(map(str, miss.experts))} as of epoch {miss.epoch}"
        return Refusal(shard, sequence, Why.MISS, text)
    if kind is Kind.BUSY:
        retry_s = Busy.unpacked(payload).retry_us / 1e6
        return Refusal(shard, sequence, Why.BUSY, f"shard {shard} is busy", retry_s=retry_s)
    if kind is Kind.FAILURE:
        failure = Failure.unpacked(payload)
        return Refusal(shard, sequence, Why.ERROR, f"shard {shard}: {failure.text}", failure.permanent)
    raise FrameError("kind", f"a shard does not answer calls with {kind.name} frames")


def _reason(error: Exception) -> str:
    if isinstance(error, FrameError | ShardUnavailable):
        return error.reason
    return "timeout" if isinstance(error, TimeoutError) else "eof" if isinstance(error, OSError) else "error"

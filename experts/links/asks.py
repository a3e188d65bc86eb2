"""The calls that are open on one connection of a router to a shard."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Call = TypeVar("Call")
WINDOW = 16
# An abandoned call that has not been answered for so long no longer counts: its shard has dropped it.
ABANDONED_SECONDS = 10.0


@dataclass(slots=True)
class Ask(Generic[Call]):
    """A `call` on the connection's channel `channel`; `abandoned_at` is when nobody waited for it any more."""

    call: Call
    channel: int
    abandoned_at: float | None = None
    late: bool = False


@dataclass(slots=True)
class OpenAsks(Generic[Call]):
    """By sequence number; at most `window` are open. Shared memory has the rows of one call at a time.

    A shard answers the calls of one channel in their order, or not at all where they were cancelled: an answer ends
    all earlier ones that were abandoned.
    """

    window: int = WINDOW
    _asks: dict[int, Ask[Call]] = field(default_factory=dict)
    _shared: dict[int, int] = field(default_factory=dict)
    _abandoned: int = 0

    def __len__(self) -> int:
        return len(self._asks)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._asks))

    def has_room(self, now: float) -> bool:
        """Whether one more may be sent."""
        if len(self._asks) >= self.window and self._abandoned:
            for sequence, ask in list(self._asks.items()):
                if ask.abandoned_at is not None and now - ask.abandoned_at >= ABANDONED_SECONDS:
                    del self._asks[sequence]
                    self._abandoned -= 1
        return len(self._asks) < self.window

    def may_share(self, channel: int) -> bool:
        """Whether the channel's shared memory is free."""
        return channel not in self._shared

    def add(self, sequence: int, call: Call, channel: int, shares: bool) -> None:
        """A call is sent; `shares` if its rows lie in shared memory."""
        self._asks[sequence] = Ask(call, channel)
        if shares:
            self._shared[channel] = sequence

    def get(self, sequence: int) -> Ask[Call] | None:
        """An open call that somebody waits for."""
        ask = self._asks.get(sequence)
        return None if ask is None or ask.abandoned_at is not None else ask

    def abandon(self, sequence: int, now: float) -> None:
        """Nobody waits for the call any more; it is open until it is answered."""
        ask = self._asks[sequence]
        if ask.abandoned_at is None:
            ask.abandoned_at, ask.late = now, False
            self._abandoned += 1

    def answered(self, sequence: int, channel: int) -> Ask[Call] | None:
        """An answer has come on a channel; returns the call if somebody waits for it."""
        ask = self._asks.pop(sequence, None)
        if self._shared and self._shared.get(channel, sequence + 1) <= sequence:
            del self._shared[channel]
        if ask is not None and ask.abandoned_at is not None:
            self._abandoned -= 1
        if self._abandoned:
            self._end_earlier(sequence, channel)
        return None if ask is None or ask.abandoned_at is not None else ask

    def _end_earlier(self, sequence: int, channel: int) -> None:
        for number, ask in list(self._asks.items()):
            if number < sequence and ask.channel == channel and ask.abandoned_at is not None:
                del self._asks[number]
                self._abandoned -= 1

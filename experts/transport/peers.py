"""Who is connected to a server, and how many may be: strangers have few places, and the newest of them the best."""

import threading

from experts.transport.channel import Channel

# A handshake takes milliseconds: so many at a time are hundreds of processes that connect in one moment.
MOST_STRANGERS = 64
MOST_PEERS = 1024


class Peers:
    """The connections of a server. A peer is a stranger until it has proven the credentials.

    Strangers who do not prove themselves must not keep those out who would. So it is not the newcomer who has to go
    where there are too many, but the stranger that has been here longest; who has proven itself never has to.
    """

    def __init__(self, most_strangers: int = MOST_STRANGERS, most: int = MOST_PEERS) -> None:
        self._most_strangers = most_strangers
        self._most = most
        self._strangers: dict[Channel, None] = {}  # the oldest first
        self._proven: set[Channel] = set()
        self._leaving: set[Channel] = set()
        self._changed = threading.Condition()

    @property
    def proven(self) -> int:
        """How many have proven the credentials."""
        return len(self._proven)

    def dismiss_all(self) -> list[Channel]:
        """Every connection there is: all have to go."""
        with self._changed:
            self._leaving |= self._proven | self._strangers.keys()
            self._strangers.clear()
            self._proven.clear()
            return list(self._leaving)

    def admit(self, newcomer: Channel) -> Channel | None:
        """Give a newcomer a place; return who has to go for it, which may be the newcomer itself."""
        with self._changed:
            full = len(self._strangers) + len(self._proven) >= self._most
            if full and not self._strangers:
                return newcomer
            oldest = next(iter(self._strangers)) if full or len(self._strangers) >= self._most_strangers else None
            if oldest is not None:
                del self._strangers[oldest]
                self._leaving.add(oldest)
            self._strangers[newcomer] = None
            return oldest

    def prove(self, stranger: Channel) -> bool:
        """Note that a stranger has proven the credentials; whether it still has its place."""
        with self._changed:
            if stranger not in self._strangers:
                return False
            del self._strangers[stranger]
            self._proven.add(stranger)
            return True

    def remove(self, channel: Channel) -> None:
        """A connection has ended."""
        with self._changed:
            self._strangers.pop(channel, None)
            self._proven.discard(channel)
            self._leaving.discard(channel)
            self._changed.notify_all()

    def has_to_go(self, channel: Channel) -> bool:
        """Whether a connection has lost its place; how it ends is no fault of its peer."""
        return channel in self._leaving

    def wait_for_none(self, seconds: float) -> bool:
        """Wait until no connection is left, at most so long; whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._strangers or self._proven or self._leaving), seconds)

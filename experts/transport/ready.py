"""Which of many connections has something to read: one epoll object for all of them, for as long as they live.

A connection is registered when it is taken up and unregistered when it is given up, never for a reply. One look tells
of all connections that are ready: a layer's replies come in bursts, and then few looks are enough for all.
"""

import contextlib
import select
import time
from collections.abc import Container


class ReadyShards:
    """Shards' connections, by their file descriptors; driven by one thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._descriptors: dict[int, int] = {}
        self._shards: dict[int, int] = {}  # by descriptor
        # Something came and has not been read: the first that was seen comes first.
        self._ready: dict[int, None] = {}
        # Of those, the ones for which nobody waited. They are not registered, or they would end every wait at once.
        self._aside: set[int] = set()

    def add(self, shard: int, descriptor: int) -> None:
        """Watch the shard's connection instead of an earlier one."""
        self.remove(shard)
        self._poll.register(descriptor, select.EPOLLIN)
        self._descriptors[shard], self._shards[descriptor] = descriptor, shard

    def remove(self, shard: int) -> None:
        """Watch the shard no longer, which must be said before its connection is closed."""
        self._ready.pop(shard, None)
        self._aside.discard(shard)
        descriptor = self._descriptors.pop(shard, None)
        if descriptor is not None:
            del self._shards[descriptor]
            with contextlib.suppress(OSError):  # it was set aside
                self._poll.unregister(descriptor)

    def next_of(self, shards: Container[int], deadline_s: float) -> int | None:
        """Return one of `shards` that has something to read, or has hung up; None if none has by the deadline.

        A frame of it is to be read before this is asked again.
        """
        while (found := self._take(shards)) is None:
            events = self._poll.poll(max(0.0, deadline_s - time.monotonic()))
            if not events:
                return None
            for descriptor, _ in events:
                if descriptor in self._shards:  # else it was removed while this thread waited, as a process ends
                    self._see(self._shards[descriptor], shards)
        return found

    def _see(self, shard: int, shards: Container[int]) -> None:
        self._ready[shard] = None
        if shard not in shards:
            self._aside.add(shard)
            self._poll.unregister(self._descriptors[shard])

    def _take(self, shards: Container[int]) -> int | None:
        found = next((shard for shard in self._ready if shard in shards), None)
        if found is None:
            return None
        del self._ready[found]
        if found in self._aside:
            self._aside.remove(found)
            self._poll.register(self._descriptors[found], select.EPOLLIN)
        return found

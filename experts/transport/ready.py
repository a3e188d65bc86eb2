"""Which of many connections can be read or written: one epoll object for all of them, for as long as they live.

A connection is registered when it is taken up and unregistered when it is given up, never for a reply. One look tells
of all connections that are ready: a layer's replies come in bursts, and then few looks are enough for all.
"""

import contextlib
import os
import select
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
READ = select.EPOLLIN
BOTH = select.EPOLLIN | select.EPOLLOUT


class Ready(Generic[Key]):
    """Connections by their descriptors; driven by one thread, which any other may `wake`."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN)
        self._descriptors: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}

    def add(self, key: Key, descriptor: int) -> None:
        """Watch a connection instead of an earlier one of that key."""
        self.remove(key)
        self._poll.register(descriptor, READ)
        self._descriptors[key], self._keys[descriptor] = descriptor, key

    def remove(self, key: Key) -> None:
        """Watch it no longer, which must be said before it is closed."""
        descriptor = self._descriptors.pop(key, None)
        if descriptor is not None:
            del self._keys[descriptor]
            with contextlib.suppress(OSError):  # closed, by a thread that ends the process
                self._poll.unregister(descriptor)

    def writing(self, key: Key, wanted: bool) -> None:
        """Whether to say when the connection can be written to."""
        if (descriptor := self._descriptors.get(key)) is not None:
            self._poll.modify(descriptor, BOTH if wanted else READ)

    def wake(self) -> None:
        """End the present wait, or else the next one, with nothing."""
        if (bell := self._bell) >= 0:
            with contextlib.suppress(OSError):  # closed in between
                os.eventfd_write(bell, 1)

    def wait(self, until_s: float) -> list[tuple[Key, int]]:
        """The connections that are ready, with epoll's events; empty past `until_s` of the monotonic clock, or woken.

        What has come before is told even if that time is over.
        """
        found = []
        for descriptor, events in self._poll.poll(max(0.0, until_s - time.monotonic())):
            if descriptor == self._bell:
                with contextlib.suppress(OSError):
                    os.eventfd_read(self._bell)
            elif (key := self._keys.get(descriptor)) is not None:
                found.append((key, events))
        return found

    def close(self) -> None:
        """Give up all."""
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
        self._poll.close()

"""Signs of life, sent by a thread that no computation holds up: routers tell a busy shard from a dead one by them."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from experts.host.watched_thread import ThreadWatch
from experts.transport.channel import Channel
from experts.transport.control import BEAT_SECONDS, Beat
from experts.transport.frame import Kind

log = logging.getLogger(__name__)


class Beats:
    """Sends a beat to each channel that was added, every `seconds`. It never waits for a peer.

    A channel with unsent bytes gets none: beats are about now, so a peer that does not read must not find old ones.

    Args:
        beat: makes the beat of a number.
        watch: the process's threads, to which this one is added; it must last.
    """

    def __init__(
        self,
        beat: Callable[[int], Beat],
        watch: ThreadWatch,
        name: str = "beats",
        seconds: float = BEAT_SECONDS,
    ) -> None:
        self._beat = beat
        self._seconds = seconds
        self._channels: set[Channel] = set()
        self._number = 0
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = watch.start("beats", self._run, name=name, lasts_until=self._closing.is_set)

    def add(self, channel: Channel) -> None:
        """Send beats on `channel` from now on, by `post`: nobody may `send` on it."""
        self._channels.add(channel)
        self._wanted.set()

    def remove(self, channel: Channel) -> None:
        """Send none any more, if any were sent."""
        self._channels.discard(channel)

    def close(self, seconds: float = 1.0) -> None:
        """End the thread, and wait for that at most so long."""
        self._closing.set()
        self._wanted.set()
        self._thread.join(seconds)

    def send_all(self) -> None:
        """Send one beat to each channel."""
        self._number += 1
        payload = self._beat(self._number).packed()
        for channel in tuple(self._channels):  # a copy: connections come and go on their own threads
            try:
                if channel.flush():
                    channel.post(Kind.BEAT, self._number, [payload])
            except OSError:  # its own thread finds that out too, and says so
                self.remove(channel)

    def _run(self) -> None:
        _schedule_normally()
        while not self._closing.wait(self._seconds):
            self._wanted.wait()
            self.send_all()
            if not self._channels:
                self._wanted.clear()
                if self._channels:  # one that came in between
                    self._wanted.set()


def _schedule_normally() -> None:
    """Give this thread the usual policy: batch threads, as those that compute are, do not preempt others."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then beats may be late under load
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

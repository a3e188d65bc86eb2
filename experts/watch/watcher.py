"""One thread that reads the control connections of all shards: beats and status come in, requests for status go out."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experts.host.watched_thread import ThreadWatch
from experts.links.patience import PatienceClock
from experts.links.table import Links
from experts.transport.channel import Channel
from experts.transport.control import BEAT_SECONDS, Beat
from experts.transport.frame import FrameError, Kind
from experts.transport.ready import Ready

log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
MOST_STATUS_BYTES = 1 << 20
# A watcher that was not scheduled for longer than this has not watched.
PATIENCE_SECONDS = 2 * BEAT_SECONDS


@dataclass(slots=True)
class _Watched:
    control: Channel
    number: int
    status_due_s: float


class Watcher:
    """Feeds `links` with what the control connections say. It waits for no peer: what is sent is posted.

    Args:
        status: called with a shard and its status, each time that one comes.
        ended: called with a shard, the number of its connection and the reason when a control connection has ended.
    """

    def __init__(
        self,
        links: Links,
        status: Callable[[int, dict[str, Any]], None],
        ended: Callable[[int, int, Exception], None],
        threads: ThreadWatch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._status = status
        self._ended = ended
        self._clock = clock
        self._patience = PatienceClock(PATIENCE_SECONDS)
        self._ready: Ready[int] = Ready()
        self._watched: dict[int, _Watched] = {}
        # What other threads have handed over: a shard's new connection, or None to forget the old one.
        self._handed: list[tuple[int, _Watched | None]] = []
        self._closing = False
        self._thread = threads.start("shard watcher", self._run, lasts_until=lambda: self._closing)

    def watch(self, shard: int, number: int, control: Channel) -> None:
        """Watch the control connection of a shard from now on, and own it; an earlier one is closed."""
        self._handed.append((shard, _Watched(control, number, 0.0)))
        self._ready.wake()

    def forget(self, shard: int) -> None:
        """The link is dead: close its control connection."""
        self._handed.append((shard, None))
        self._ready.wake()

    def close(self, seconds: float) -> None:
        """End the thread, and close what it watches."""
        self._closing = True
        self._ready.wake()
        self._thread.join(seconds)
        self._take_over()
        for shard in list(self._watched):
            self._drop(shard)
        self._ready.close()

    def _run(self) -> None:
        tick_s = self._clock()
        while not self._closing:
            for shard, _ in self._ready.wait(time.monotonic() + max(0.0, tick_s - self._clock())):
                self._read(shard)
            self._take_over()
            now = self._clock()
            if now >= tick_s:
                tick_s = now + BEAT_SECONDS
                self._tick(now)

    def _take_over(self) -> None:
        while self._handed:
            shard, watched = self._handed.pop(0)
            self._drop(shard)
            if watched is not None:
                self._watched[shard] = watched
                self._ready.add(shard, watched.control.fileno())
                self._ask(shard, watched, self._clock())

    def _tick(self, now: float) -> None:
        # Everything that has come is read before time passes: silence is what nobody sent.
        self._links.tick(self._patience.advance(now))
        for shard, watched in list(self._watched.items()):
            if now >= watched.status_due_s:
                self._ask(shard, watched, now)

    def _ask(self, shard: int, watched: _Watched, now: float) -> None:
        watched.status_due_s = now + STATUS_SECONDS
        try:
            watched.control.post(Kind.STATUS, 0, [])
        except OSError as error:
            self._fail(shard, watched, error)
        else:
            self._links.asked(shard, watched.number)

    def _read(self, shard: int) -> None:
        watched = self._watched.get(shard)
        if watched is None:
            return
        try:
            while (frame := watched.control.poll(MOST_STATUS_BYTES)) is not None:
                self._heard(shard, watched, frame[0].kind, frame[1])
        except (OSError, ValueError) as error:
            self._fail(shard, watched, error)

    def _heard(self, shard: int, watched: _Watched, kind: Kind, payload: memoryview) -> None:
        if kind is Kind.BEAT:
            beat = Beat.unpacked(payload)
            busy = beat.current != 0 or beat.queue > 0
            self._links.beat(shard, watched.number, busy, beat.progress, beat.draining)
        elif kind is Kind.STATUS:
            self._links.told(shard, watched.number)
            self._status(shard, _object(payload))
        else:
            raise FrameError("kind", f"a shard does not send {kind.name} frames on a control connection")

    def _fail(self, shard: int, watched: _Watched, error: Exception) -> None:
        self._drop(shard)
        self._ended(shard, watched.number, error)

    def _drop(self, shard: int) -> None:
        watched = self._watched.pop(shard, None)
        if watched is not None:
            self._ready.remove(shard)
            watched.control.close()


def _object(payload: memoryview) -> dict[str, Any]:
    """A status.

    Raises:
        FrameError: it is no JSON object.
    """
    try:
        status = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise FrameError("status", f"a status that is no JSON: {error}") from error
    if not isinstance(status, dict):
        raise FrameError("status", "a status is a JSON object")
    return status

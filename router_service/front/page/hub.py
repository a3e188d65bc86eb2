"""The source of all live pages: each snapshot is collected and encoded once, and sent to every page.

Without an open page nothing runs, and the routers stop sending activity.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from experts.host.watched_task import TaskWatch
from router_service.front.errors import unavailable
from router_service.front.routing.router_link import RouterLink
from router_service.front.routing.stream_queue import LinkLostError

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
# A router stops sending by itself unless its watch is renewed, which happens well before.
WATCH_SECONDS = 5.0
RENEW_SECONDS = 2.0
HUB = "live hub"


@dataclass(eq=False, slots=True)
class Watcher:
    """One open page. Only the latest snapshot waits for it: a slow page skips older ones."""

    dropped: int = 0
    closed: bool = False
    _latest: bytes | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, frame: bytes) -> None:
        """Replace the waiting snapshot."""
        self.dropped += self._latest is not None
        self._latest = frame
        self._ready.set()

    def close(self) -> None:
        """End the stream of snapshots."""
        self.closed = True
        self._ready.set()

    async def take(self) -> bytes | None:
        """Wait for the latest snapshot and return it, None at the end."""
        await self._ready.wait()
        frame, self._latest = self._latest, None
        if not self.closed:
            self._ready.clear()
        return frame


class LiveHub:
    """Collects snapshots while pages are open. `links` are watched, `collect` returns an encoded snapshot.

    Its task is added to `tasks`, those of the process; between two snapshots it waits by `sleep`.
    """

    def __init__(
        self,
        links: Callable[[], Sequence[RouterLink]],
        collect: Callable[[], bytes],
        limit: int,
        *,
        tick_s: float = TICK_SECONDS,
        tasks: TaskWatch | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._links = links
        self._collect = collect
        self._limit = limit
        self._tick_s = tick_s
        self._tasks = tasks or TaskWatch()
        self._sleep = sleep
        self._watchers: set[Watcher] = set()
        self._renewed: dict[RouterLink, float] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def watchers(self) -> int:
        """Open pages."""
        return len(self._watchers)

    def join(self) -> Watcher:
        """Add a page; the first starts the hub.

        Raises:
            RequestError: UNAVAILABLE if `limit` pages are open.
        """
        if len(self._watchers) >= self._limit:
            raise unavailable(f"{self._limit} live pages are open, as many as front.max_pages allows; close one")
        watcher = Watcher()
        self._watchers.add(watcher)
        if self._task is None:
            self._task = self._tasks.start(HUB, self._run(), lasts=True)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Remove a page; the last stops the hub."""
        self._watchers.discard(watcher)
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = None
            self._stop_watching()

    def close(self) -> None:
        """End every page's stream."""
        for watcher in list(self._watchers):
            watcher.close()
            self.leave(watcher)

    async def _run(self) -> None:
        while True:
            try:
                self._renew(asyncio.get_running_loop().time())
                frame = self._collect()
            except Exception:
                logger.exception("a snapshot for the live pages failed")
            else:
                for watcher in self._watchers:
                    watcher.put(frame)
            await self._sleep(self._tick_s)

    def _renew(self, now: float) -> None:
        """Renew the watch of each router, of new ones at once."""
        links = self._links()
        self._renewed = {link: at for link, at in self._renewed.items() if link in links}
        for link in links:
            if now - self._renewed.get(link, -RENEW_SECONDS) >= RENEW_SECONDS:
                _watch(link, WATCH_SECONDS)
                self._renewed[link] = now

    def _stop_watching(self) -> None:
        for link in self._renewed:
            _watch(link, 0.0)
        self._renewed.clear()


def _watch(link: RouterLink, seconds: float) -> None:
    try:
        link.watch(seconds)
    except LinkLostError:
        logger.debug("router %s is gone, nothing to watch", link.hello.router)

"""One source for all live pages: a snapshot is collected and encoded once and handed to everyone.

With nobody looking nothing runs, and the routers are told so.
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
# The routers stop by themselves when the Front forgets them; renewed well before.
WATCH_SECONDS = 5.0
RENEW_SECONDS = 2.0
HUB = "live hub"


@dataclass(eq=False, slots=True)
class Watcher:
    """One open page: at most the latest snapshot waits for it, older ones are dropped."""

    dropped: int = 0
    closed: bool = False
    _latest: bytes | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, frame: bytes) -> None:
        """Replace what waits."""
        self.dropped += self._latest is not None
        self._latest = frame
        self._ready.set()

    def close(self) -> None:
        """There will be no more."""
        self.closed = True
        self._ready.set()

    async def take(self) -> bytes | None:
        """Return the latest snapshot once there is one, None at the end."""
        await self._ready.wait()
        frame, self._latest = self._latest, None
        if not self.closed:
            self._ready.clear()
        return frame


class LiveHub:
    """Collects while there are watchers. `links` are asked for activity, `collect` returns an encoded snapshot.

    Its task is added to `tasks`, those of the process; between two snapshots it waits by `sleep`.
    """

    def __init__(
        self,
        links: Callable[[], Sequence[RouterLink]],
        collect: Callable[[], bytes],
        limit: int,
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
        """Add a page; the first one starts the hub.

        Raises:
            RequestError: UNAVAILABLE, there are as many pages as may be.
        """
        if len(self._watchers) >= self._limit:
            raise unavailable(f"{self._limit} live pages are open, as many as front.max_pages allows; close one")
        watcher = Watcher()
        self._watchers.add(watcher)
        if self._task is None:
            self._task = self._tasks.start(HUB, self._run(), lasts=True)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """A page is gone; the last one stops the hub."""
        self._watchers.discard(watcher)
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = None
            self._rest()

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
        """Tell each router that it is watched, new ones at once."""
        links = self._links()
        self._renewed = {link: at for link, at in self._renewed.items() if link in links}
        for link in links:
            if now - self._renewed.get(link, -RENEW_SECONDS) >= RENEW_SECONDS:
                _watch(link, WATCH_SECONDS)
                self._renewed[link] = now

    def _rest(self) -> None:
        for link in self._renewed:
            _watch(link, 0.0)
        self._renewed.clear()


def _watch(link: RouterLink, seconds: float) -> None:
    try:
        link.watch(seconds)
    except LinkLostError:
        logger.debug("router %s is gone, nothing to watch", link.hello.router)

"""Opens a Front's metrics page, at once or when the Front from which it takes over has closed its own."""

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress

from experts.host.watched_task import TaskWatch
from router_service.front.config import FrontConfig
from router_service.front.telemetry.metrics_server import MetricsServer

RETRY_SECONDS = 0.2


class MetricsOpening:
    """The page of `make` on the configured port, from `open` to `close`; none where that is null."""

    def __init__(self, config: FrontConfig, tasks: TaskWatch, make: Callable[[], MetricsServer]) -> None:
        self.port = 0
        self._config = config
        self._tasks = tasks
        self._make = make
        self._page: MetricsServer | None = None
        self._later: asyncio.Task[None] | None = None

    async def open(self, takes_over: bool) -> None:
        """Open it. One that `takes_over` waits for its port beside what it does; `port` is 0 until then.

        Raises:
            OSError: the port cannot be bound.
        """
        if self._config.metrics_port is None:
            return
        page = self._make()
        try:
            await self._listen(page, self._config.metrics_port)
        except OSError as error:
            if not takes_over or error.errno != errno.EADDRINUSE:
                raise
            # Two that answered on one port by turns would look like counters that are reset all the time.
            self._later = self._tasks.start("metrics page", self._retry(page, self._config.metrics_port))

    async def close(self) -> None:
        """Close it, or wait for its port no longer."""
        later, self._later = self._later, None
        if later is not None:
            later.cancel()
            await asyncio.gather(later, return_exceptions=True)
        page, self._page = self._page, None
        if page is not None:
            await page.stop()

    async def _listen(self, page: MetricsServer, port: int) -> None:
        self.port = await page.start(self._config.metrics_host, port, self._config.metrics_ports)
        self._page = page

    async def _retry(self, page: MetricsServer, port: int) -> None:
        while self._page is None:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(OSError):
                await self._listen(page, port)

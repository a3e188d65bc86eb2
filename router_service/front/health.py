"""Whether the Front can serve requests, and who is told when that changes."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from router_service.front.routing.router_pool import RouterPool


class FrontHealth:
    """The Front serves while it is not draining and has a router that is ready, see `RouterLink.ready`.

    A router is listed for Fronts only after it has generated a token. `status` may be read on any thread, all else is
    for the event loop.
    """

    def __init__(self, router_pool: RouterPool, services: Iterable[str]) -> None:
        self.draining = False
        self._router_pool = router_pool
        self._services = frozenset(("", *services))
        self._watchers: set[asyncio.Event] = set()
        self._status = "no router is linked"

    @property
    def status(self) -> str:
        """serving, draining, "no router is linked", "no router answers" or "shards are missing"."""
        return self._status

    @property
    def serving(self) -> bool:
        """Whether requests can be served now."""
        return self._status == "serving"

    @property
    def routers(self) -> int:
        """Routers that are connected."""
        return len(self._router_pool.links)

    def knows(self, service: str) -> bool:
        """Whether `service` is one of the Front's; "" stands for all of them."""
        return service in self._services

    def json(self) -> bytes:
        """The status and the number of routers, for /healthz."""
        return json.dumps({"status": self._status, "routers": self.routers}).encode()

    @contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """Return an event that is set at each change, until the end of the block."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            yield changed
        finally:
            self._watchers.discard(changed)

    def refresh(self) -> None:
        """Update the status from the links, and wake the watchers if it has changed. Waits for nobody."""
        before, self._status = self._status, self._evaluate()
        if self._status != before:
            for changed in self._watchers:
                changed.set()

    def drain(self) -> None:
        """Become NOT_SERVING permanently."""
        self.draining = True
        self.refresh()

    def _evaluate(self) -> str:
        if self.draining:
            return "draining"
        links = self._router_pool.links
        if any(link.ready for link in links):
            return "serving"
        if not links:
            return "no router is linked"
        return "no router answers" if all(link.silent for link in links) else "shards are missing"

"""Admits requests up to a limit, and none while the server drains."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from experts.host.log import fields
from router_service.front.errors import exhausted, invalid, unavailable

logger = logging.getLogger(__name__)


class Admission:
    """The requests in flight, which have at most `limit` answers together. Used on the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.draining = False  # whether new requests are refused
        self._active: dict[asyncio.Timeout, int] = {}  # how many answers each request has
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Answers in flight."""
        return sum(self._active.values())

    @contextmanager
    def admit(self, answers: int = 1) -> Iterator[asyncio.Timeout]:
        """Admit a request for so many answers, each a stream of its own at a router.

        It runs within the yielded timeout, which expires when a drain's grace period is over.

        Raises:
            RequestError: UNAVAILABLE while draining, RESOURCE_EXHAUSTED at the limit.
        """
        if self.draining:
            raise unavailable("the server is draining")
        if answers > self._limit:
            raise invalid("n", f"must be at most {self._limit}, see front.max_concurrent_streams, got {answers}")
        if self.active + answers > self._limit:
            raise exhausted(f"the server has {self._limit} streams, its limit; try again later")
        # Without a limit until a drain sets one: a task that is cancelled instead could not send a last message.
        scope = asyncio.timeout(None)
        self._active[scope] = answers
        self._idle.clear()
        try:
            yield scope
        finally:
            self._active.pop(scope, None)
            if not self._active:
                self._idle.set()

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self.draining = True

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests and wait for those in flight; after `grace_s` seconds they end as cancelled."""
        self.refuse()
        logger.info("drain begins", extra=fields(streams=self.active, grace_seconds=grace_s))
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
            logger.info("drain ends, all streams have ended")
        except TimeoutError:
            logger.warning("%d streams outlive the grace period of %g s", self.active, grace_s)
            for scope in self._active:
                with suppress(RuntimeError):  # one that has left its scope only writes its last response
                    scope.reschedule(0)

"""Finds the routers, keeps a connection to each, and chooses one for each request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from experts.host.watched_task import TaskWatch
from experts.transport.address import Endpoint
from experts.transport.trust.credentials import Credentials
from router_service.front.config import FrontConfig
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.routing.link_opening import open_link
from router_service.front.routing.prefix_affinity import PrefixAffinity
from router_service.front.routing.prefix_chain import PrefixChain
from router_service.front.routing.router_link import RouterLink, describe
from router_service.front.routing.silence import tick_seconds
from router_service.protocol.messages import RouterReport

logger = logging.getLogger(__name__)

EndpointSource = Callable[[], Awaitable[list[Endpoint]]]
# Whoever lists the routers should have a limit of their own; without one an unanswered call would end the search.
LIST_SECONDS = 10.0
POLLER = "router poller"
WATCHER = "router watcher"
LINK = "router link"


class RouterPool:
    """The links to all routers; a background task calls `endpoints` for the routers about once a second.

    Another one calls `tick`, which judges whether routers are heard. `on_change` is called whenever a link is opened,
    lost, or ready or not any more, and after each call of `endpoints`; its faults are logged.
    The tasks are added to `tasks`, those of the process.
    """

    def __init__(
        self,
        *,
        endpoints: EndpointSource,
        node: str,
        credentials: Credentials,
        config: FrontConfig,
        on_change: Callable[[], Awaitable[None]],
        tasks: TaskWatch | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._node = node
        self._credentials = credentials
        self._config = config
        self._on_change = on_change
        self._tasks = tasks or TaskWatch()
        self._connections: dict[int, asyncio.Task[None]] = {}
        self._links: tuple[RouterLink, ...] = ()
        self._changed = asyncio.Condition()
        self._connect_errors: dict[int, str] = {}
        self._prefixes = PrefixAffinity()
        self._poller: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._judged: tuple[tuple[RouterLink, bool, bool], ...] = ()

    @property
    def links(self) -> tuple[RouterLink, ...]:
        """The open links. The tuple is replaced and never modified, so other threads may read it."""
        return self._links

    @property
    def reports(self) -> list[RouterReport]:
        """The latest report of each connected router."""
        return [link.report for link in self._links if link.report is not None]

    def start(self) -> None:
        """Start to look for routers."""
        self._poller = self._tasks.start(POLLER, self._poll(), lasts=True)
        self._watcher = self._tasks.start(WATCHER, self._watch(), lasts=True)

    async def stop(self) -> None:
        """Close all links; their streams fail."""
        tasks = [task for task in (self._poller, self._watcher, *self._connections.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def limits(self, context: int, vocabulary: int) -> LengthLimits:
        """Return the limits that every connected router accepts, at most `context`."""
        hellos = [link.hello for link in self._links]
        context = min([context, *(hello.context for hello in hellos)])
        return LengthLimits(context, min([context, *(hello.prompt_limit for hello in hellos)]), vocabulary)

    async def choose(self, prefix: PrefixChain, length: int = 0, known: RouterLink | None = None) -> RouterLink:
        """Return the link that is best for a request that begins with `prefix`; wait while all are silent.

        That is the one with the least to compute, see `PrefixAffinity.rank`. Routers that hold less than `length`
        tokens, leave, lack shards or have not been heard just now are chosen only if there is no other. `known` has
        the prefix for certain: it is chosen, unless it is one of those.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._heard))
            if known in self._heard and not any(_reluctance(known, length)):
                return known
            return min(self._heard, key=lambda link: (*_reluctance(link, length), *self._rank(link, prefix)))

    def saved(self, link: RouterLink, prefix: PrefixChain) -> int:
        """Return how many tokens of `prefix` the router has probably cached."""
        return self._prefixes.saved(link.endpoint.incarnation, prefix)

    def remember(self, link: RouterLink, prefix: PrefixChain) -> None:
        """Note that the router computes `prefix`."""
        self._prefixes.remember(link.endpoint.incarnation, prefix, link.hello.prefix_cache_tokens)

    async def tick(self) -> None:
        """Judge which routers are silent. Their streams go on at others, or end when they have waited for too long."""
        for link in self._links:
            link.tick()
        others = any(link.ready for link in self._links)
        for link in self._links:
            if link.silent and others:
                link.hand_over()
            elif link.given_up:
                link.give_up()
        judged = tuple((link, link.silent, link.ready) for link in self._links)
        if judged != self._judged:
            self._judged = judged
            await self._tell()

    @property
    def _heard(self) -> tuple[RouterLink, ...]:
        return tuple(link for link in self._links if not link.silent)

    async def _watch(self) -> None:
        seconds = tick_seconds(self._config.link_silence_seconds)
        while True:
            await asyncio.sleep(seconds)
            await self.tick()

    async def _poll(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LIST_SECONDS):
                    endpoints = await self._endpoints()
                self._start_connections(endpoints)
            except Exception:  # whatever fails in finding routers, links that are up must stay
                logger.warning("cannot list the routers", exc_info=True)
            await self._notify()
            await asyncio.sleep(self._config.poll_seconds)

    async def _notify(self) -> None:
        """Say that links may have changed. A listener's fault ends neither the search nor a link."""
        try:
            await self._on_change()
        except Exception:
            logger.exception("what follows the links to the routers failed")

    def _start_connections(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.incarnation not in self._connections:
                name = f"{LINK} {endpoint.replica}"
                self._connections[endpoint.incarnation] = self._tasks.start(LINK, self._run_connection(endpoint), name)
        # Processes that are no longer listed never come back under that incarnation: without this the table would grow.
        known = {endpoint.incarnation for endpoint in endpoints}
        self._connect_errors = {key: text for key, text in self._connect_errors.items() if key in known}
        self._prefixes.keep(known | {link.endpoint.incarnation for link in self._links})

    def _rank(self, link: RouterLink, prefix: PrefixChain) -> tuple[int, bytes]:
        return self._prefixes.rank(link.endpoint.incarnation, prefix, link.backlog.tokens)

    async def _run_connection(self, endpoint: Endpoint) -> None:
        try:
            await self._connect(endpoint)
        finally:
            del self._connections[endpoint.incarnation]

    async def _connect(self, endpoint: Endpoint) -> None:
        """Connect and read until the link ends; the next poll tries again."""
        try:
            link = await open_link(endpoint, self._node, self._credentials, self._config)
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            self._note_connect_error(endpoint, describe(error))
            return
        self._connect_errors.pop(endpoint.incarnation, None)
        try:
            await self._set_links((*self._links, link))
            logger.info("link to router %s is up", link.hello.router)
            await link.run()
        finally:
            # Off the list first: a stream that hears of the loss must not choose this link again.
            await self._set_links(tuple(other for other in self._links if other is not link))
            await link.close()

    async def _set_links(self, links: tuple[RouterLink, ...]) -> None:
        self._links = links
        await self._tell()

    async def _tell(self) -> None:
        await self._notify()
        async with self._changed:
            self._changed.notify_all()

    def _note_connect_error(self, endpoint: Endpoint, text: str) -> None:
        """Log why a router cannot be connected, once per reason."""
        if self._connect_errors.get(endpoint.incarnation) != text:
            self._connect_errors[endpoint.incarnation] = text
            logger.warning("cannot link router %s (process %d): %s", endpoint.replica, endpoint.pid, text)


def _reluctance(link: RouterLink, length: int) -> tuple[bool, bool, bool, bool]:
    """Why a router is chosen only if there is no better one, the weightiest reason first."""
    return link.hello.context < length, link.leaving, not link.ready, link.hesitant

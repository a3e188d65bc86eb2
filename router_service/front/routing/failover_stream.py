"""A request's stream of outputs, which continues on another router if its own is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from router_service.front.errors import deadline_exceeded, exhausted, unavailable
from router_service.front.routing.delivered_once import DeliveredOnce
from router_service.front.routing.prefix_chain import PrefixChain
from router_service.front.routing.router_link import RouterLink
from router_service.front.routing.router_pool import RouterPool
from router_service.front.routing.stream_queue import (
    Arrival,
    LinkLostError,
    LinkSilentError,
    NoRouterError,
    OverflowedError,
    StreamQueue,
)
from router_service.protocol.messages import Submit
from router_service.protocol.routing_part import RoutingPart, from_position

logger = logging.getLogger(__name__)

MAX_ENDED = 2
# Between two attempts to have a full router take a request that has begun elsewhere.
FULL_SECONDS = 0.25


class RouterFullError(Exception):
    """The router has no room for a request that has begun elsewhere."""


class FailoverStream:
    """Outputs of one request. If its router is lost, the request is resubmitted to another one.

    What a router draws depends on the seed and the position alone, so the next one continues the same answer after the
    tokens received so far. `deadline` is in the event loop's seconds, None for none.

    A router that is full is asked again, for as long as a request waits for a router: what has begun is not refused.

    A request may itself be what crashes its routers, and must not crash the others too. So it fails once two routers
    have ended while they had it. Routers that sent a token do not count, since they could compute the request, and
    neither do those that announced that they leave. `max_resubmits` bounds the rest.

    `sharers` streams have one reader. One that is `beside` another, of the same prompt, goes to the router of that one.
    """

    def __init__(
        self,
        router_pool: RouterPool,
        submit: Submit,
        *,
        deadline: float | None,
        router_wait_seconds: float,
        max_resubmits: int,
        sharers: int = 1,
        beside: "FailoverStream | None" = None,
    ) -> None:
        self._router_pool = router_pool
        self._submit = submit
        self._deadline = deadline
        self._router_wait_seconds = router_wait_seconds
        self._resubmits_left = max_resubmits
        # Incarnations of routers that ended without a token of this request: one that was restarted counts again.
        self._ended: set[int] = set()
        self._answered = False
        # Until when a full router is asked again, once the request has lost its first one.
        self._patient_until: float | None = None
        self._generated: list[int] = list(submit.generated)
        self._prefix = PrefixChain(submit.cache_salt, submit.prompt)
        self._sharers = sharers
        self._beside = beside
        # The router that had the request last.
        self.link: RouterLink | None = None
        self._open: tuple[RouterLink, StreamQueue] | None = None
        # Positions whose routing was received; each is delivered once, whichever routers report it.
        self._routed = submit.reported
        self._prompt_logprobs = DeliveredOnce()

    async def receive(self) -> list[Arrival]:
        """Return the outputs received since the last call, at least one.

        Raises:
            RequestError: UNAVAILABLE if no router is connected or heard in time, too many were lost, or two have ended
                without a token; DEADLINE_EXCEEDED; RESOURCE_EXHAUSTED if the caller was too slow.
        """
        while True:
            try:
                return await self._receive()
            except NoRouterError as error:
                raise unavailable(str(error)) from error
            except RouterFullError:
                self.close()
                await asyncio.sleep(FULL_SECONDS)
            except LinkLostError as error:
                self._count_loss(error)
                self.close()
                self._patient_until = asyncio.get_running_loop().time() + self._router_wait_seconds
                logger.warning("a request has lost its router and goes to another one: %s", error)

    def close(self) -> None:
        """Release the stream on its router, and cancel it there unless it has ended."""
        if self._open is not None:
            link, queue = self._open
            self._open = None
            link.release(queue)
            self._extend_prefix()
            self._router_pool.remember(link, self._prefix)

    def _count_loss(self, error: LinkLostError) -> None:
        if self._open is not None and self._open[0].leaving:
            return
        # A silent one may be stopped, starved or cut off: nothing that a request does, if it has computed the request.
        silent = isinstance(error, LinkSilentError)
        if silent and self._answered:
            return
        if self._open is not None and not self._answered and not silent:
            self._ended.add(self._open[0].endpoint.incarnation)
        if len(self._ended) >= MAX_ENDED:
            self.close()
            text = f"the request was in flight when {len(self._ended)} routers ended, it is not sent to others: {error}"
            raise unavailable(text) from error
        if not self._resubmits_left:
            self.close()
            raise unavailable(f"the request has lost its router too often: {error}") from error
        self._resubmits_left -= 1

    async def _receive(self) -> list[Arrival]:
        if self._open is None:
            self._answered = False
            self._open = await self._submit_somewhere()
        try:
            async with self._within_deadline():
                arrivals = await self._open[1].take()
        except OverflowedError as error:
            raise exhausted("the client reads too slowly; its stream was given up") from error
        if self._is_full(arrivals[0]):
            raise RouterFullError
        return [self._note(arrival) for arrival in arrivals]

    def _is_full(self, first: Arrival) -> bool:
        """Whether a router refuses a request that has begun elsewhere: that is no end for an answer, it has to wait."""
        failure = first.output.failure
        if self._patient_until is None or self._answered or failure is None or failure.code != "RESOURCE_EXHAUSTED":
            return False
        return asyncio.get_running_loop().time() < self._patient_until

    async def _submit_somewhere(self) -> tuple[RouterLink, StreamQueue]:
        # The next router reports all prompt positions again.
        self._prompt_logprobs.begin_again()
        async with self._within_deadline():
            link = await self._choose()
            cached = self._router_pool.saved(link, self._prefix)
            # Before it is computed: what comes meanwhile with the same beginning shall go there too.
            self._router_pool.remember(link, self._prefix)
            submit = msgspec.structs.replace(
                self._submit,
                generated=list(self._generated),
                deadline_seconds=self._seconds_left(),
                reported=self._routed,
            )
            self.link = link
            return link, await link.submit(submit, cached, self._sharers)

    async def _choose(self) -> RouterLink:
        try:
            async with asyncio.timeout(self._router_wait_seconds):
                length = len(self._submit.prompt) + self._submit.sampling.max_tokens
                known = None if self._beside is None else self._beside.link
                return await self._router_pool.choose(self._prefix, length, known)
        except TimeoutError as error:
            links = self._router_pool.links
            raise unavailable("no router answers" if links else "no router is linked") from error

    def _extend_prefix(self) -> None:
        """Add what was generated since, which the next turn of a conversation or another router begins with."""
        known = len(self._prefix) - len(self._submit.prompt)
        self._prefix.extend(self._generated[known:])

    @asynccontextmanager
    async def _within_deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(self._deadline):
                yield
        except TimeoutError as error:
            raise deadline_exceeded() from error

    def _seconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def _note(self, arrival: Arrival) -> Arrival:
        """Keep the tokens for a later router; drop what an earlier router has reported of the same positions."""
        output = arrival.output
        # Routing alone may be of the first chunk of a prompt whose next one ends the router.
        self._answered |= bool(output.token_ids)
        self._generated += output.token_ids
        if output.routing is None and not output.prompt_logprobs:
            return arrival
        prompt_logprobs = self._prompt_logprobs.fresh(output.prompt_logprobs)
        routing = self._fresh_routing(output.routing)
        return Arrival(arrival.at, msgspec.structs.replace(output, routing=routing, prompt_logprobs=prompt_logprobs))

    def _fresh_routing(self, part: RoutingPart | None) -> RoutingPart | None:
        if part is None:
            return None
        fresh = from_position(part, self._routed)
        self._routed = max(self._routed, part.first + part.positions)
        return fresh

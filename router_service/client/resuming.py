"""A generation that outlives the Front which serves it: the next one goes on behind the tokens delivered so far."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

import grpc
import grpc.aio

from router_service.client.delivered import Delivered
from router_service.client.fronts import Fronts
from router_service.protocol.inference_pb2 import GenerateRequest, GenerateResponse
from router_service.protocol.request_id import accepted_by_front, stated_by_front

# What a lost connection looks like; a status that a Front states has the request's id in its trailing metadata.
LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
# Refused before it was accepted: another Front may take it.
REFUSED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
# In a row without a token: together about 35 s of pauses, in which a Front is replaced.
MAX_TRIES = 20

Metadata = tuple[tuple[str, str], ...]


class Resuming:
    """Answers one request over as many calls as it takes.

    A lost connection does not end an accepted request: the rest is asked for again, of the next target, after a pause
    that grows. What a Front states as the request's failure is final. A request that no Front has accepted is sent to
    each target once.

    Args:
        resume: whether to go on at all. Several answers do not: a continuation is of one.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        fronts: Fronts,
        metadata: Metadata,
        request: GenerateRequest,
        *,
        resume: bool,
        timeout: float | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._goes_on = resume and request.n <= 1
        if self._goes_on and not request.sampling.HasField("seed"):
            # Drawn here, as the Front's own is unknown to the next one.
            request.sampling.seed = secrets.randbits(63)
        self._fronts = fronts
        self._metadata = metadata
        self._resume = resume
        self._deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        self._sleep = sleep
        self._delivered = Delivered(request)
        self._accepted = False
        self._untried = len(fronts) - 1
        self._tries = 0

    async def responses(self) -> AsyncGenerator[GenerateResponse, None]:
        """Yield the answer.

        Raises:
            grpc.aio.AioRpcError: it was refused or has failed, or could not be gone on with.
        """
        while not self._delivered.finished:
            channel = self._fronts.channel
            call = self._fronts.inference.Generate(
                self._delivered.next_request(), timeout=self._seconds_left(), metadata=self._metadata
            )
            try:
                async for response in call:
                    self._accepted, self._tries = True, 0
                    if (fresh := self._delivered.fresh(response)) is not None:
                        yield fresh
                return
            except grpc.aio.AioRpcError as error:
                self._note(error)
                self._fronts.move_on(channel)
            finally:
                # Leaving the iterator early must free the request's place and blocks on the server.
                call.cancel()
            await self._pause()

    def _note(self, error: grpc.aio.AioRpcError) -> None:
        """Count a failure; raise it if it is final."""
        self._accepted |= accepted_by_front(error)
        if not self._resume or not self._may_go_on(error):
            raise error
        self._tries += 1
        if self._tries > MAX_TRIES:
            raise _given_up(error, self._delivered.tokens) from error

    def _may_go_on(self, error: grpc.aio.AioRpcError) -> bool:
        if not self._accepted:
            self._untried -= 1
            return self._untried >= 0 and error.code() is grpc.StatusCode.UNAVAILABLE
        if not self._goes_on:
            return False
        if stated_by_front(error):
            # One that this Front has accepted has failed for good, whoever accepted it before.
            return error.code() in REFUSED and not accepted_by_front(error)
        return error.code() in LOST

    async def _pause(self) -> None:
        if self._accepted and self._tries > 1:
            await self._sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._tries - 2)))

    def _seconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())


def _given_up(error: grpc.aio.AioRpcError, tokens: int) -> grpc.aio.AioRpcError:
    tried = f"the connection was lost behind {tokens} tokens, and {MAX_TRIES} calls could not go on"
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        error.initial_metadata(),
        cast(grpc.aio.Metadata, error.trailing_metadata()),
        details=f"{tried}, the last: {error.details()}",
        debug_error_string=error.debug_error_string(),
    )

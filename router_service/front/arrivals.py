"""Counts the calls that reach this process, so that one which stops its server can do so between two of them."""

from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from router_service.front.auth.grpc_interceptor import Handler

# A call that gRPC holds reaches us within a few turns of the event loop.
TURNS = 8
TURN_S = 0.004


class Arrivals(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # no generic when it runs
    """Counts calls; the first of the interceptors. Used on the event loop only."""

    def __init__(self) -> None:
        self.count = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Count the call."""
        self.count += 1
        return await continuation(handler_call_details)

    async def pause(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> bool:
        """Wait until no call has come for some turns of the event loop; False if that is not so within `seconds`.

        Then gRPC holds none that has not reached us, for as long as the caller does not wait.
        """
        for _ in range(round(seconds / (TURNS * TURN_S))):
            seen = self.count
            for _ in range(TURNS):
                await sleep(TURN_S)
            if self.count == seen:
                return True
        return False

"""The standard health service, `grpc.health.v1.Health`, which needs no token.

A caller without a token must not hold up anyone: streams are bounded in number, no lock is held while one is written,
and one that is not read is given up.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from router_service.front.api.calls import Context, ending_strangers, write_in_time
from router_service.front.errors import RequestError, exhausted
from router_service.front.health import FrontHealth

MAX_WATCHES = 1024
MAX_WATCHES_OF_CONNECTION = 16


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # no stubs
    """Check and Watch. A watcher that reads nothing for `patience_s` loses its stream."""

    def __init__(self, health: FrontHealth, patience_s: float) -> None:
        self._health = health
        self._patience_s = patience_s
        self._watches: Counter[str] = Counter()

    @property
    def watches(self) -> int:
        """Streams that are open."""
        return self._watches.total()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        """Return the status now."""
        async with ending_strangers(context):
            if not self._health.knows(request.service):
                raise RequestError(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> None:
        """Send the status now, and whenever it has changed; changes that follow each other closely may be one."""
        async with ending_strangers(context):
            with self._place(context.peer()), self._health.watched() as changed:
                last = None
                while True:
                    # Before the status is read: what changes while it is written is written next.
                    changed.clear()
                    if (status := self._status(request.service)) != last:
                        await write_in_time(context, pb.HealthCheckResponse(status=status), self._patience_s)
                        last = status
                    await changed.wait()

    @contextmanager
    def _place(self, connection: str) -> Iterator[None]:
        if self.watches >= MAX_WATCHES or self._watches[connection] >= MAX_WATCHES_OF_CONNECTION:
            raise exhausted(
                f"health is watched by {MAX_WATCHES_OF_CONNECTION} streams of this connection or {MAX_WATCHES} in all, "
                "the limits; end one, or use Check"
            )
        self._watches[connection] += 1
        try:
            yield
        finally:
            self._watches[connection] -= 1
            if not self._watches[connection]:
                del self._watches[connection]

    def _status(self, service: str) -> pb.HealthCheckResponse.ServingStatus:
        if not self._health.knows(service):
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if self._health.serving else pb.HealthCheckResponse.NOT_SERVING

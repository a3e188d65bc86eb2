"""The `expertmesh.v1.ClusterAdmin` service: what an operator may change while the cluster serves.

The Front only checks and passes on: the control plane does it, behind `AdminActions`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import grpc

from router_service.front.api.balance_state import rebalance_reply
from router_service.front.api.calls import Context, answering
from router_service.front.errors import RequestError, invalid, unavailable
from router_service.protocol import cluster_pb2 as pb
from router_service.protocol.balance import (
    AdminInvalidError,
    AdminRefusedError,
    AdminUnavailableError,
    RebalanceOutcome,
)
from router_service.protocol.cluster_pb2_grpc import ClusterAdminServicer

# A plan for the largest models takes about a second; nobody waits here for experts to be loaded.
ANSWER_SECONDS = 60.0
NO_CONTROL_PLANE = "this Front runs without a control plane: nothing can be moved or scaled here"


class AdminActions(Protocol):
    """What the control plane does for an operator. Each call answers when the work is begun, not when it is over.

    All raise `AdminInvalidError`, `AdminRefusedError` and `AdminUnavailableError`.
    """

    async def rebalance(self, dry_run: bool, placement: str, pin: bool | None) -> RebalanceOutcome:
        """Move experts to `placement`, a placement file's JSON, or to the planner's own if it is empty.

        `pin` says whether the balancer then leaves the placement alone; None leaves that as it is.
        """

    async def scale(self, shards: int) -> tuple[int, int]:
        """Set the number of shards; return those wanted before and now."""

    async def advise(self) -> str:
        """Return the JSON of an advice on copies."""


class ClusterAdminService(ClusterAdminServicer):
    """Rebalance, Scale and Advise by `actions`; None where there is no control plane. Callers need the role admin."""

    def __init__(self, actions: AdminActions | None, seconds: float = ANSWER_SECONDS) -> None:
        self._actions = actions
        self._seconds = seconds

    async def Rebalance(self, request: pb.RebalanceRequest, context: Context) -> pb.RebalanceReply:
        """Begin a move, or say what it would be."""
        reply = pb.RebalanceReply()
        async with self._acting(context) as actions:
            pin = request.pin if request.HasField("pin") else None
            if request.dry_run and pin is not None:
                raise invalid("pin", "a dry run changes nothing; leave out pin or dry_run")
            outcome = await actions.rebalance(request.dry_run, request.placement, pin)
            reply.CopyFrom(rebalance_reply(outcome))
        return reply

    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleReply:
        """Set the number of shards."""
        reply = pb.ScaleReply()
        async with self._acting(context) as actions:
            if request.shards < 1:
                raise invalid("shards", f"must be at least 1, is {request.shards}")
            reply.before, reply.shards = await actions.scale(request.shards)
        return reply

    async def Advise(self, request: pb.AdviseRequest, context: Context) -> pb.AdviseReply:  # noqa: ARG002
        """Say whether copies would pay."""
        reply = pb.AdviseReply()
        async with self._acting(context) as actions:
            reply.advice = await actions.advise()
        return reply

    @asynccontextmanager
    async def _acting(self, context: Context) -> AsyncIterator[AdminActions]:
        """Bound a call in time, and end it with the status of what the control plane raises.

        A caller's own deadline cancels the call, as gRPC does for all of them.
        """
        async with answering(context):
            if self._actions is None:
                raise RequestError(grpc.StatusCode.UNIMPLEMENTED, NO_CONTROL_PLANE)
            with _as_statuses(self._seconds):
                async with asyncio.timeout(self._seconds):
                    yield self._actions


@contextmanager
def _as_statuses(seconds: float) -> Iterator[None]:
    try:
        yield
    except AdminInvalidError as error:
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
    except AdminRefusedError as error:
        raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from error
    except AdminUnavailableError as error:
        raise unavailable(str(error)) from error
    except TimeoutError as error:
        problem = f"the control plane has not answered within {seconds:g} s; GetCluster says whether it has begun"
        raise unavailable(problem) from error

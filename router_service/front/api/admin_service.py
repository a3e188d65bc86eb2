"""The `expertmesh.v1.ClusterAdmin` service: what an operator may change while the cluster serves.

The Front only checks and passes on: the control plane does it, behind `AdminActions`.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import grpc

from router_service.front.api.balance_state import rebalance_reply
from router_service.front.api.calls import Context, answering
from router_service.front.errors import RequestError, invalid, unavailable
from router_service.protocol import cluster_pb2 as pb
from router_service.protocol.balance import BalanceRefusal, RebalanceOutcome
from router_service.protocol.cluster_pb2_grpc import ClusterAdminServicer

# A plan for the largest models takes about a second; nobody waits here for experts to be loaded.
ANSWER_SECONDS = 60.0
SILENT = "the control plane has not answered within {seconds:g} s; GetCluster says whether it has begun"
NO_CONTROL_PLANE = "this Front runs without a control plane: nothing can be moved or scaled here"
STATUSES = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "precondition": grpc.StatusCode.FAILED_PRECONDITION,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
}
T = TypeVar("T")


class AdminActions(Protocol):
    """What the control plane does for an operator. Each call answers when the work is begun, not when it is over, and
    with a `BalanceRefusal` where it is not.
    """

    async def rebalance(self, dry_run: bool, placement: str, pin: bool | None) -> RebalanceOutcome | BalanceRefusal:
        """Move experts to `placement`, a placement file's JSON, or to the planner's own if it is empty.

        `pin` says whether the balancer then leaves the placement alone; None leaves that as it is.
        """

    async def scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        """Set the number of shards; return those wanted before and now."""

    async def advise(self) -> str | BalanceRefusal:
        """Return the JSON of an advice on copies."""

    async def record(self, seconds: float) -> str | BalanceRefusal:
        """Return the JSON of a recording: what was routed so many seconds back."""


class ClusterAdminService(ClusterAdminServicer):
    """The methods by `actions`; None where there is no control plane. Callers need the role admin."""

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
            outcome = _granted(await actions.rebalance(request.dry_run, request.placement, pin))
            reply.CopyFrom(rebalance_reply(outcome))
        return reply

    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleReply:
        """Set the number of shards."""
        reply = pb.ScaleReply()
        async with self._acting(context) as actions:
            if request.shards < 1:
                raise invalid("shards", f"must be at least 1, is {request.shards}")
            reply.before, reply.shards = _granted(await actions.scale(request.shards))
        return reply

    async def Advise(self, request: pb.AdviseRequest, context: Context) -> pb.AdviseReply:  # noqa: ARG002
        """Say whether copies would pay."""
        reply = pb.AdviseReply()
        async with self._acting(context) as actions:
            reply.advice = _granted(await actions.advise())
        return reply

    async def RecordRouting(self, request: pb.RecordRoutingRequest, context: Context) -> pb.RecordRoutingReply:
        """Return what was routed lately."""
        reply = pb.RecordRoutingReply()
        async with self._acting(context) as actions:
            if not 0 < request.seconds < math.inf:
                raise invalid("seconds", f"must be over 0, is {request.seconds:g}")
            reply.recording = _granted(await actions.record(request.seconds))
        return reply

    @asynccontextmanager
    async def _acting(self, context: Context) -> AsyncIterator[AdminActions]:
        """Yield the control plane, for a bounded time. At a caller's own deadline gRPC cancels the call."""
        async with answering(context):
            if self._actions is None:
                raise RequestError(grpc.StatusCode.UNIMPLEMENTED, NO_CONTROL_PLANE)
            limit = asyncio.timeout(self._seconds)
            try:
                async with limit:
                    yield self._actions
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise unavailable(SILENT.format(seconds=self._seconds)) from error


def _granted(answer: T | BalanceRefusal) -> T:
    """Return what the control plane answers.

    Raises:
        RequestError: it refuses.
    """
    if isinstance(answer, BalanceRefusal):
        raise RequestError(STATUSES[answer.kind], answer.message)
    return answer

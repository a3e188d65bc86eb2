"""Following by GetCluster what an operator has begun, for as long as it takes."""

import argparse
import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from cluster.cli.client.balance_text import UNDER_WAY
from router_service.client.client import Client
from router_service.protocol import cluster_pb2 as pb

POLL_SECONDS = 0.5
CALL_SECONDS = 10.0
# A Front that is replaced, or a registry that is restarted, is back by then.
PATIENCE_SECONDS = 20.0

Sleep = Callable[[float], Awaitable[None]]


def add_waiting(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the flags of a command that begins something that lasts."""
    parser.add_argument(
        "--wait", action=argparse.BooleanOptionalAction, default=True, help=f"wait until {what} has ended (default)"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="how long to wait at most; it goes on then")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def check_waiting(args: argparse.Namespace) -> None:
    """Check the flags of `add_waiting`.

    Raises:
        ValueError: the time is none.
    """
    if args.timeout is not None and not args.timeout > 0:
        raise ValueError(f"--timeout: must be over 0, is {args.timeout:g}")


class NotDoneError(Exception):
    """What was begun has failed, or was not seen to end; the message says so."""


class Lines:
    """Prints lines of progress as they come, each once; none if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def say(self, line: str) -> None:
        """Print a line, unless the last one was the same."""
        if not self._quiet and line != self._last:
            print(line, flush=True)
        self._last = line


async def states(client: Client, sleep: Sleep = asyncio.sleep) -> AsyncGenerator[pb.ClusterState, None]:
    """Yield the cluster's state twice a second. Fronts that do not answer are waited for.

    Raises:
        grpc.aio.AioRpcError: none answers for `PATIENCE_SECONDS`, or another error.
    """
    missed = 0
    while True:
        try:
            state = await client.cluster(timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            missed += 1
            absent = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if not absent or missed * POLL_SECONDS >= PATIENCE_SECONDS:
                raise
        else:
            missed = 0
            yield state
        await sleep(POLL_SECONDS)


async def end_of_plan(
    states: AsyncIterator[pb.ClusterState], epoch: int, show: Callable[[pb.BalancePlan], None]
) -> pb.BalancePlan | None:
    """Return the plan of `epoch` when it has ended; `show` is called with each of its states before.

    None: its placement is in force, but the balancer, started again meanwhile, knows no more of it.

    Raises:
        NotDoneError: nobody knows of it any more.
    """
    missed = 0
    async for state in states:
        plan = next((plan for plan in state.balance.plans if plan.epoch == epoch), None)
        if plan is not None:
            missed = 0
            if plan.state not in UNDER_WAY:
                return plan
            show(plan)
        elif state.balance.epoch >= epoch:
            return None
        elif (missed := missed + 1) * POLL_SECONDS >= PATIENCE_SECONDS:
            break
    raise NotDoneError(f"the cluster knows no more of the move to epoch {epoch}: the placement before stays")


@asynccontextmanager
async def bounded(seconds: float | None, what: str) -> AsyncIterator[None]:
    """Bound the wait for `what`; None does not.

    Raises:
        NotDoneError: it takes longer.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise NotDoneError(f"{what} has not ended within {seconds:g} s; it goes on, see `expertmesh status`") from error

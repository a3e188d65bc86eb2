"""`expertmesh scale`: change the number of expert shards while the cluster serves."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass

from cluster.cli.client.balance_text import progress_line, under_way
from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.following import Lines, NotDoneError, Sleep, add_waiting, bounded, check_waiting, states
from cluster.cli.client.generate_command import Subparsers
from cluster.cli.failing import EXIT_FAILED, fail, one_line
from router_service.client.client import Client
from router_service.protocol import cluster_pb2 as pb

# The Front waits for the balancer for 60 s.
CALL_SECONDS = 70.0
READY = "ready"


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("scale", help="change the number of expert shards while the cluster serves")
    add_target(parser)
    parser.add_argument("--shards", type=int, metavar="N", required=True, help="shards that there are to be")
    add_waiting(parser, "all shards are there, and those that go are gone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_scale(args), args.target)


async def _scale(args: argparse.Namespace) -> int:
    check_waiting(args)
    if not 1 <= args.shards < 1 << 32:
        raise ValueError(f"--shards: must be at least 1 and below 2^32, is {args.shards}")
    async with client_of(args) as client:
        before = await client.cluster(timeout=CALL_SECONDS)
        reply = await client.scale(args.shards, timeout=CALL_SECONDS)
        last = max((plan.epoch for plan in before.balance.plans), default=0)
        return await Scaling(client, args.json, last).end(reply, args.wait, args.timeout)


@dataclass(frozen=True, slots=True)
class Count:
    """Shards that are ready, that hold experts, and that are there at all, of those wanted."""

    wanted: int
    ready: int
    holding: int
    there: int

    @property
    def done(self) -> bool:
        """Whether as many as are wanted serve experts, and no others are there."""
        return self.wanted == self.ready == self.holding == self.there

    def line(self) -> str:
        """All of it in words."""
        return f"shards ready: {self.ready} of {self.wanted}, with experts: {self.holding}, there: {self.there}"


def count(state: pb.ClusterState, wanted: int) -> Count:
    """Count a cluster's shards; several processes of one shard, as while it is replaced, are one."""
    ready = {shard.shard for shard in state.shards if shard.state == READY}
    holding = {shard.shard for shard in state.shards if shard.shard in ready and shard.experts}
    return Count(wanted, len(ready), len(holding), len({shard.shard for shard in state.shards}))


class Scaling:
    """Prints how shards come and go: as lines while they do, or as one JSON object at the end.

    `epoch` is of the last plan before: one that fails later is ours.
    """

    def __init__(self, client: Client, as_json: bool, epoch: int = 0, sleep: Sleep = asyncio.sleep) -> None:
        self._client = client
        self._as_json = as_json
        self._epoch = epoch
        self._sleep = sleep
        self._lines = Lines(quiet=as_json)

    async def end(self, reply: pb.ScaleReply, wait: bool, seconds: float | None) -> int:
        """Print what was begun and, if it is waited for, what has become of it; return the exit code."""
        self._lines.say(f"shards wanted: {reply.shards}, before: {reply.before}")
        counted, problem = (await self._ended(reply.shards, seconds)) if wait else (None, "")
        if self._as_json:
            shown = None if counted is None else asdict(counted)
            print(json.dumps({"before": reply.before, "shards": reply.shards, "counted": shown, "problem": problem}))
        return fail(problem, EXIT_FAILED) if problem else 0

    async def _ended(self, wanted: int, seconds: float | None) -> tuple[Count | None, str]:
        heard = states(self._client, self._sleep)
        try:
            async with bounded(seconds, f"the change to {wanted} shards"), aclosing(heard):
                counted = await scaled(heard, wanted, self._epoch, self._lines.say)
        except NotDoneError as error:
            return None, str(error)
        self._lines.say(f"done: {wanted} shards serve")
        return counted, ""


async def scaled(states: AsyncIterator[pb.ClusterState], wanted: int, epoch: int, say: Callable[[str], None]) -> Count:
    """Return when as many shards as `wanted` serve experts, no others are there, and no experts move any more.

    Raises:
        NotDoneError: a move of experts after `epoch` has failed, or another number is wanted now.
    """
    heard = False
    async for state in states:
        balance, counted = state.balance, count(state, wanted)
        if (failed := next((p for p in balance.plans if p.epoch > epoch and p.state == "failed"), None)) is not None:
            raise NotDoneError(f"the move of experts to epoch {failed.epoch} has failed: {one_line(failed.reason)}")
        # A Front hears the balancer twice a second: the first reports may be of the time before.
        heard = heard or balance.shards == wanted
        if heard and balance.shards != wanted:
            raise NotDoneError(f"{balance.shards} shards are wanted now: somebody else has asked for them")
        plan = under_way(balance)
        if counted.done and plan is None:
            return counted
        say(counted.line() if plan is None else f"{counted.line()}; {progress_line(plan)}")
    raise AssertionError("states do not end")

"""`expertmesh rebalance`: move experts to where they serve the traffic better, or say what that would give."""

import argparse
import asyncio
import json
from contextlib import aclosing
from pathlib import Path

from cluster.cli.client.balance_text import DONE, contents, ended_line, gains, progress_line
from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.following import (
    Lines,
    NotDoneError,
    Sleep,
    add_waiting,
    bounded,
    check_waiting,
    end_of_plan,
    states,
)
from cluster.cli.client.generate_command import Subparsers
from cluster.cli.client.plain import plain
from cluster.cli.client.saving import saved_to
from cluster.cli.failing import EXIT_FAILED, fail, one_line
from router_service.client.client import Client
from router_service.protocol import cluster_pb2 as pb

# The Front waits for the balancer for 60 s.
CALL_SECONDS = 70.0
MOVING = "moving"


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("rebalance", help="move experts to where they serve the present traffic better")
    add_target(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be moved, and what it promises")
    parser.add_argument("--placement", type=Path, metavar="FILE", help="move to this placement, as --save writes it")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the placement: the new one, or what is kept")
    pin = parser.add_mutually_exclusive_group()
    pin.add_argument("--pin", action="store_true", default=None, help="the balancer leaves the placement alone then")
    pin.add_argument("--unpin", dest="pin", action="store_false", default=None, help="the balancer may change it again")
    add_waiting(parser, "the move")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_rebalance(args), args.target)


async def _rebalance(args: argparse.Namespace) -> int:
    check_waiting(args)
    if args.dry_run and args.pin is not None:
        raise ValueError("--dry-run changes nothing: leave out --pin and --unpin")
    placement = _text_of(args.placement)
    with saved_to(args.save) as save:
        async with client_of(args) as client:
            reply = await client.rebalance(
                dry_run=args.dry_run, placement=placement, pin=args.pin, timeout=CALL_SECONDS
            )
            save(reply.placement)
            return await Rebalancing(client, args.json).end(reply, args.wait, args.timeout)


def _text_of(file: Path | None) -> str:
    """The text of a placement file that can be read; its errors name the file, before anybody is asked.

    Raises:
        ValueError: it cannot be read, or is no placement.
    """
    if file is None:
        return ""
    from cluster.balance.placement_file import load_placement

    load_placement(file)
    return file.read_text(encoding="utf-8")


class Rebalancing:
    """Prints a move: as lines while it lasts, or as one JSON object at its end."""

    def __init__(self, client: Client, as_json: bool, sleep: Sleep = asyncio.sleep) -> None:
        self._client = client
        self._sleep = sleep
        self._lines = Lines(quiet=as_json)
        self._as_json = as_json

    async def end(self, reply: pb.RebalanceReply, wait: bool, seconds: float | None) -> int:
        """Print what was begun and, if it is waited for, what has become of it; return the exit code."""
        plan, problem = reply.plan if reply.HasField("plan") else None, ""
        self._lines.say(f"{reply.result}: {one_line(reply.reason) or 'no reason is given'}")
        if plan is not None:
            self._lines.say(f"{contents(plan)}; {gains(plan)}")
            if wait and reply.result == MOVING:
                plan, problem = await self._ended(plan, seconds)
        if self._as_json:
            shown = None if plan is None else plain(plan)
            result = {"result": reply.result, "reason": reply.reason, "plan": shown, "problem": problem}
            print(json.dumps(result, ensure_ascii=False))
        return fail(problem, EXIT_FAILED) if problem else 0

    async def _ended(self, plan: pb.BalancePlan, seconds: float | None) -> tuple[pb.BalancePlan, str]:
        """Follow a plan; return it as it ended, and what is wrong with that."""
        heard = states(self._client, self._sleep)
        try:
            async with bounded(seconds, f"the move to epoch {plan.epoch}"), aclosing(heard):
                ended = await end_of_plan(heard, plan.epoch, lambda now: self._lines.say(progress_line(now)))
        except NotDoneError as error:
            return plan, str(error)
        if ended is None:
            self._lines.say(f"epoch {plan.epoch} is in force; the balancer was started anew, and knows no more of it")
            return plan, ""
        if ended.state != DONE:
            return ended, f"{ended_line(ended)}; the placement before stays"
        self._lines.say(ended_line(ended))
        return ended, ""

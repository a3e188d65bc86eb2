"""`expertmesh advise`: would copies of experts pay, from what a cluster has routed lately or a recording of it."""

import argparse
import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.following import Sleep
from cluster.cli.client.generate_command import Subparsers
from cluster.cli.client.saving import saved_to
from router_service.client.client import Client

if TYPE_CHECKING:
    from cluster.balance.advice_report import Advice
    from cluster.balance.judging.recording import Recording

# The Front waits for the balancer for 60 s.
CALL_SECONDS = 70.0
DEFAULT_SECONDS = 60.0
# Far less than a balancer keeps, twice `balance.window_seconds`: what a piece is short of is lost.
PIECE_SECONDS = 20.0


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("advise", help="say whether copies of experts would pay, and what they take")
    add_target(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--recording", type=Path, metavar="FILE", help="from a recording, without a cluster")
    source.add_argument("--record", type=Path, metavar="FILE", help="record what is routed from now on, then advise")
    parser.add_argument(
        "--seconds", type=float, metavar="N", help=f"how long --record records (default: {DEFAULT_SECONDS:g})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_advise(args), args.target)


async def _advise(args: argparse.Namespace) -> None:
    if args.seconds is not None and args.record is None:
        raise ValueError("--seconds is of --record: name the file to record into")
    seconds = DEFAULT_SECONDS if args.seconds is None else args.seconds
    if not 0 < seconds < math.inf:
        raise ValueError(f"--seconds: must be over 0, is {seconds:g}")
    if args.recording is not None:
        advice = advice_from(args.recording)
    elif args.record is not None:
        advice = await _recorded(args, seconds)
    else:
        advice = await _live(args)
    print(advice.to_json() if args.json else advice.text())


def advice_from(file: Path) -> "Advice":
    """The advice for a recording.

    Raises:
        ValueError: it cannot be read, or has too little.
    """
    from cluster.balance.judging.recording import load_recording

    return _advice_for(load_recording(file))


async def _recorded(args: argparse.Namespace, seconds: float) -> "Advice":
    from cluster.balance.judging.recording import write_recording

    with saved_to(args.record) as save:
        async with client_of(args) as client:
            recording = await record(client, seconds)
        save(write_recording(recording))
    return _advice_for(recording)


async def _live(args: argparse.Namespace) -> "Advice":
    import msgspec

    from cluster.balance.advice_report import Advice

    async with client_of(args) as client:
        advice = await client.advise(timeout=CALL_SECONDS)
    try:
        return msgspec.json.decode(advice, type=Advice)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the server's advice is of another version: {error}") from error


async def record(client: Client, seconds: float, sleep: Sleep = asyncio.sleep) -> "Recording":
    """Return what is routed in so many seconds from now on, asked for piece by piece: a balancer keeps no more.

    Raises:
        ValueError: what the server sends is no recording, or of another model than before.
    """
    from cluster.balance.judging.recording import read_recording

    whole: Recording | None = None
    pieces = math.ceil(seconds / PIECE_SECONDS)
    for _ in range(pieces):
        await sleep(seconds / pieces)
        piece = read_recording(await client.record_routing(seconds / pieces, timeout=CALL_SECONDS))
        whole = piece if whole is None else whole.followed_by(piece)
    assert whole is not None
    return whole


def _advice_for(recording: "Recording") -> "Advice":
    from cluster.balance.advice import advise

    return advise(recording.windows, recording.supply, recording.current)

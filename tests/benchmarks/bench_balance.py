"""What moving experts gives on a real cluster: static, by EPLB's placement, by ours; and when heat goes about.

    python -m tests.benchmarks.bench_balance [CHECKPOINT] [--seconds 60] [--shards 4] [--rows placements,turns]

`placements`: the bundled model under one domain's text, first as experts are spread at the start; then EPLB's and our
placement, each made from what was routed before, by turns for `--rounds` rounds, so that a machine that slows down does
so for all. `turns`: the domain changes every `--turn-seconds`; the balancer works by itself, and before it the same
traffic is measured without it.
"""

import argparse
import asyncio
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cluster.balance.placement_file import write_placement
from cluster.table import table
from router_service.client.client import Client
from tests.benchmarks.balance.live import (
    Costs,
    Traffic,
    eplb_placement,
    measured,
    moved,
    routed,
    settled,
    traffic,
)
from tests.e2e.server import Server, serving

DOMAINS = ("code", "prose", "mathematics")
SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class Turns:
    """What the balancer did while heat went about: plans and bytes, against the changes of heat."""

    changes: int
    plans: int
    bytes: int
    promised: list[float]
    gave: list[float | None]
    alone: Costs
    balanced: Costs


def settings(args: argparse.Namespace, automatic: bool) -> dict[str, Any]:
    window = min(60.0, args.seconds)
    return {
        "balance": {
            "automatic": automatic,
            "extra_copies": args.extra,
            "window_seconds": window,
            "interval_seconds": window / 6,
            "cooldown_seconds": window,
        }
    }


def started(args: argparse.Namespace, automatic: bool, folder: Path) -> Any:
    file = folder / f"{automatic}.yaml"
    file.write_text(yaml.safe_dump(settings(args, automatic)))
    checkpoint = [str(args.checkpoint)] if args.checkpoint else []
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--http-port", "0")
    given = ("--shards", str(args.shards), "--config", str(file), *ports)
    return serving(*checkpoint, *given, log=folder / f"{automatic}.log")


async def placements(server: Server, args: argparse.Namespace) -> dict[str, Any]:
    """Each placement's costs, by turns; and of our moves what they promised and gave."""
    found: dict[str, list[Costs]] = {"static": [], "EPLB": [], "ours": []}
    promised: list[float] = []
    gave: list[float] = []
    async with Client(server.target) as client, traffic(server.target, args.streams, args.domain) as made:
        await asyncio.sleep(args.seconds)
        for _ in range(args.rounds):
            found["static"].append(await measured(made, server.metrics, args.seconds))
            recording = await routed(client, args.seconds)
            start = write_placement(recording.current, recording.layers, "as at the start")
            plan = await moved(client)
            if plan is not None:
                found["ours"].append(await _behind(made, server, args))
                known = await settled(client, plan.epoch, measured_too=True)
                promised.append(known.predicted_gain)
                gave.append(known.measured_gain)
            await moved(client, eplb_placement(recording, args.extra))
            found["EPLB"].append(await _behind(made, server, args))
            await moved(client, start)
            await asyncio.sleep(SETTLE_SECONDS)
    return {
        "costs": {name: _median(costs) for name, costs in found.items() if costs},
        "promised": promised,
        "gave": gave,
    }


async def _behind(made: Traffic, server: Server, args: argparse.Namespace) -> Costs:
    await asyncio.sleep(SETTLE_SECONDS)
    return await measured(made, server.metrics, args.seconds)


async def by_turns(server: Server, args: argparse.Namespace) -> tuple[Costs, list[Any]]:
    """The costs while the domain changes again and again, and the balancer's plans."""
    async with Client(server.target) as client, traffic(server.target, args.streams, DOMAINS[0]) as made:
        work = asyncio.create_task(measured(made, server.metrics, args.turns * args.turn_seconds))
        for turn in range(args.turns):
            made.domain = DOMAINS[turn % len(DOMAINS)]
            await asyncio.sleep(args.turn_seconds)
        costs = await work
        return costs, list((await client.cluster()).balance.plans)


def turns(args: argparse.Namespace, folder: Path) -> Turns:
    """The same traffic without the balancer and with it."""
    with started(args, False, folder) as server:
        alone, _ = asyncio.run(by_turns(server, args))
    with started(args, True, folder) as server:
        balanced, plans = asyncio.run(by_turns(server, args))
    done = [plan for plan in plans if plan.state == "done"]
    return Turns(
        changes=args.turns - 1,
        plans=len(plans),
        bytes=sum(plan.bytes for plan in done),
        promised=[plan.predicted_gain for plan in done],
        gave=[plan.measured_gain if plan.HasField("measured_gain") else None for plan in done],
        alone=alone,
        balanced=balanced,
    )


def _median(costs: list[Costs]) -> Costs:
    return Costs(*(float(np.median([asdict(one)[name] for one in costs])) for name in asdict(costs[0])))


def render(found: dict[str, Any]) -> str:
    """The figures as tables."""
    lines: list[str] = []
    if "placements" in found:
        rows = [_cells(name, costs) for name, costs in found["placements"]["costs"].items()]
        lines += [table(("placement", "tokens/s", "straggler wait", "exposed wait"), rows)]
        pairs = zip(found["placements"]["promised"], found["placements"]["gave"], strict=True)
        lines += [f"promised {promised:.1%}, gave {gave:.1%}" for promised, gave in pairs]
    if "turns" in found:
        one: Turns = found["turns"]
        rows = [_cells("without the balancer", one.alone), _cells("with it", one.balanced)]
        lines += [table(("heat goes about", "tokens/s", "straggler wait", "exposed wait"), rows)]
        gave = ", ".join("unknown" if gain is None else f"{gain:.1%}" for gain in one.gave)
        lines += [f"{one.plans} plans in {one.changes} changes of heat, {one.bytes / 2**20:.1f} MiB moved"]
        lines += [f"promised {', '.join(f'{gain:.1%}' for gain in one.promised)}; gave {gave}"]
    return "\n".join(lines)


def _cells(name: str, costs: Costs) -> tuple[str, ...]:
    return (name, f"{costs.tokens_per_second:.1f}", f"{costs.straggler_us:.0f} us", f"{costs.exposed_us:.0f} us")


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="directory (default: the bundled model)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement, and of the balancer's window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--extra", type=int, default=1, help="extra copies a shard and layer")
    parser.add_argument("--domain", default="code", help="of the placements' row")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--turn-seconds", type=float, default=60.0)
    parser.add_argument("--rows", default="placements,turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "placements" in args.rows:
            with started(args, False, Path(folder)) as server:
                found["placements"] = asyncio.run(placements(server, args))
        if "turns" in args.rows:
            found["turns"] = turns(args, Path(folder))
    print(render(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, default=asdict))


if __name__ == "__main__":
    main()

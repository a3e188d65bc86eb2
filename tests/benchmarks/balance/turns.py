"""Heat that goes about: the traffic's domain changes again and again, without the balancer and with it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from router_service.client.client import Client
from router_service.protocol.cluster_pb2 import BalancePlan
from tests.benchmarks.balance.clusters import Setting, cluster, say
from tests.benchmarks.balance.live import STEPS, Costs, measured, traffic
from tests.e2e.server import Server

DOMAINS = ("code", "prose", "mathematics")


@dataclass(frozen=True)
class Turns:
    """What the balancer did while heat went about: plans and bytes, against the changes of heat.

    `most_in_a_turn` is how many plans began in one turn at most. Steps of a plan count as one, their bytes all.
    """

    changes: int
    plans: int
    most_in_a_turn: int
    bytes: int
    promised: list[float]
    gave: list[float | None]
    alone: Costs
    balanced: Costs
    failed: list[str]


def turns(setting: Setting, number: int, turn_s: float, folder: Path) -> Turns:
    """The same traffic of the bundled model without the balancer and with it, on a cluster each."""
    with cluster(setting, folder, simulated=True) as server:
        alone, _, before = asyncio.run(_by_turns(server, setting, number, turn_s))
    with cluster(setting, folder, automatic=True, simulated=True) as server:
        balanced, plans, failed = asyncio.run(_by_turns(server, setting, number, turn_s))
    whole = [[plan for plan in per_turn if not plan.reason.endswith(STEPS)] for per_turn in plans]
    done = [plan for per_turn in whole for plan in per_turn if plan.state == "done"]
    return Turns(
        changes=number - 1,
        plans=sum(map(len, whole)),
        most_in_a_turn=max(map(len, whole)),
        bytes=sum(plan.bytes for per_turn in plans for plan in per_turn if plan.state == "done"),
        promised=[plan.predicted_gain for plan in done],
        gave=[plan.measured_gain if plan.HasField("measured_gain") else None for plan in done],
        alone=alone,
        balanced=balanced,
        failed=before + failed,
    )


async def _by_turns(
    server: Server, setting: Setting, number: int, turn_s: float
) -> tuple[Costs, list[list[BalancePlan]], list[str]]:
    """The costs, the balancer's plans that began in each turn, and requests that failed."""
    seen: set[int] = set()
    plans: list[list[BalancePlan]] = []
    async with Client(server.target) as client, traffic(server.target, setting.streams, DOMAINS[0]) as made:
        work = asyncio.create_task(measured(made, server.metrics, number * turn_s))
        for turn in range(number):
            made.domain = DOMAINS[turn % len(DOMAINS)]
            await asyncio.sleep(turn_s)
            known = (await client.cluster(timeout=30)).balance.plans
            plans.append([plan for plan in known if plan.epoch not in seen])
            seen |= {plan.epoch for plan in known}
            say(f"turn {turn + 1} of {number}, {made.domain}: {len(plans[-1])} plans, {made.tokens} tokens so far")
        costs = await work
        latest = {plan.epoch: plan for plan in (await client.cluster(timeout=30)).balance.plans}
    return costs, [[latest.get(plan.epoch, plan) for plan in per_turn] for per_turn in plans], made.failed

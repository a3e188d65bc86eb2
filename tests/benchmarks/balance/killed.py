"""The balancer dies: once, so that Serve replaces it; then again and again, until its alert would be firing."""

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path

from router_service.client.client import Client
from tests.benchmarks.balance.clusters import Setting, cluster, say
from tests.benchmarks.balance.live import Costs, measured, traffic
from tests.benchmarks.failover.processes import found, kill
from tests.e2e.server import Server

BALANCER = re.compile(r"^ray::ServeReplica:[^:]*:Balancer")
# As deploy/prometheus/alerts/balancer.yml has it.
INTERVALS, HELD_S = 5, 60.0
POLL_S, MOST_S = 0.25, 300.0


@dataclass(frozen=True)
class Killed:
    """Seconds: from a kill to the next look; from the first of many to an alert that fires; from the last to a look."""

    replaced_s: float
    alert_s: float
    kills: int
    back_s: float
    before: Costs
    meanwhile: Costs
    failed: list[str]


def killed(setting: Setting, folder: Path) -> Killed:
    """Of the bundled model's cluster under streams."""
    with cluster(setting, folder, automatic=True) as server:
        return asyncio.run(_killed(server, setting))


async def _killed(server: Server, setting: Setting) -> Killed:
    async with Client(server.target) as client, traffic(server.target, setting.streams, "code") as made:
        await _looks(client, 0.0)
        before = await measured(made, server.metrics, setting.seconds)
        say("the balancer is killed once")
        replaced_s = await _replaced(client, server)
        say(f"replaced: it looked {replaced_s:.1f} s later; now it is killed whenever it is there")
        work = asyncio.create_task(measured(made, server.metrics, INTERVALS * setting.interval_s + HELD_S))
        alert_s, kills = await _until_alert(client, server, setting)
        say(f"the alert would fire after {alert_s:.0f} s and {kills} kills; now it is left alone")
        back_s = await _replaced(client, server)
        return Killed(replaced_s, alert_s, kills, back_s, before, await work, made.failed)


async def _looks(client: Client, after: float) -> None:
    """Until the balancer has looked later than that."""
    async with asyncio.timeout(MOST_S):
        while (await client.cluster(timeout=30)).balance.last_run <= after:
            await asyncio.sleep(POLL_S)


async def _replaced(client: Client, server: Server) -> float:
    """Kill what balancer there is, and wait until one has looked; the look before may still be on its way."""
    begun, now = time.monotonic(), time.time()
    _kill_all(server)
    await _looks(client, now + 0.5)
    return time.monotonic() - begun


async def _until_alert(client: Client, server: Server, setting: Setting) -> tuple[float, int]:
    """Kill every balancer, until the last look has been old for as long as the alert waits; seconds and kills."""
    begun, kills, old_since = time.monotonic(), 0, 0.0
    async with asyncio.timeout(MOST_S):
        while not old_since or time.monotonic() < old_since + HELD_S:
            kills += _kill_all(server)
            age_s = time.time() - (await client.cluster(timeout=30)).balance.last_run
            old = age_s > INTERVALS * setting.interval_s
            old_since = (old_since or time.monotonic()) if old else 0.0
            await asyncio.sleep(POLL_S)
    return time.monotonic() - begun, kills


def _kill_all(server: Server) -> int:
    pids = found(server, BALANCER)
    for pid in pids:
        kill(pid)
    return len(pids)

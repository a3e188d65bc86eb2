"""Unequal experts on shards that are accelerators of their own: what each placement costs, and what ours promised."""

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cluster.balance.judging.recording import Recording
from cluster.balance.placement_file import read_placement, write_placement
from cluster.balance.prediction import replay
from router_service.client.client import Client
from tests.benchmarks.balance.clusters import Setting, cluster, say
from tests.benchmarks.balance.live import Costs, Traffic, eplb_placement, measured, moved, routed, settled, traffic
from tests.benchmarks.balance.skewed import VOCABULARY, write_skewed
from tests.e2e.server import Server

SETTLE_SECONDS = 3.0
NAMES = ("static", "EPLB", "ours")
TEXT = 20_000  # tokens, drawn at random


@dataclass(frozen=True)
class Placements:
    """Of each placement: costs by round, and the modelled time of the slowest shard for what was routed.

    `exponents` are those of Zipf's law that fit the layers' loads, `hottest` their hottest experts. `promised` and
    `gave` are of our moves, by round.
    """

    costs: dict[str, list[Costs]]
    modelled_us: dict[str, float]
    exponents: list[float]
    hottest: list[int]
    promised: list[float]
    gave: list[float]
    failed: list[str]

    def median(self, name: str) -> Costs:
        """The median round of a placement."""
        rounds = [asdict(one) for one in self.costs[name]]
        return Costs(*(float(np.median([one[field] for one in rounds])) for field in rounds[0]))


def placements(setting: Setting, rounds: int, folder: Path, exponent: float = 1.0) -> Placements:
    """Write the checkpoint, start the cluster, measure."""
    checkpoint = write_skewed(folder / "skewed", exponent)
    with cluster(setting, folder, checkpoint, simulated=True) as server:
        return asyncio.run(_measured(server, setting, rounds))


async def _measured(server: Server, setting: Setting, rounds: int) -> Placements:
    """By turns for so many rounds, so that a machine that slows down does so for all."""
    found = Placements({name: [] for name in NAMES}, {}, [], [], [], [], [])
    words = np.random.default_rng(0).integers(VOCABULARY, size=TEXT).tolist()
    async with (
        Client(server.target) as client,
        traffic(server.target, setting.streams, "drawn", {"drawn": words}) as made,
    ):
        say(f"traffic for {setting.seconds:.0f} s, so that costs and loads are known")
        await asyncio.sleep(setting.seconds)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            await _round(found, client, made, server, setting)
        found.failed.extend(made.failed)
    return found


async def _round(found: Placements, client: Client, made: Traffic, server: Server, setting: Setting) -> None:
    found.costs["static"].append(await measured(made, server.metrics, setting.seconds))
    say(f"static: {found.costs['static'][-1]}")
    recording = await routed(client, setting.seconds)
    texts = {"static": write_placement(recording.current, recording.layers, "as at the start")}
    texts["EPLB"] = eplb_placement(recording, int(setting.extra))
    plan = await moved(client)
    if plan is None:
        raise RuntimeError(f"the planner keeps the static placement: {(await client.cluster()).balance.reason}")
    found.costs["ours"].append(await _behind(made, server, setting))
    say(f"ours: {found.costs['ours'][-1]}")
    known = await settled(client, plan.epoch, measured_too=True)
    found.promised.append(known.predicted_gain)
    found.gave.append(known.measured_gain)
    say(f"promised {known.predicted_gain:.1%}, gave {known.measured_gain:.1%}")
    after = await routed(client, setting.seconds)
    texts["ours"] = write_placement(after.current, after.layers, "ours")
    await moved(client, texts["EPLB"])
    found.costs["EPLB"].append(await _behind(made, server, setting))
    say(f"EPLB: {found.costs['EPLB'][-1]}")
    await moved(client, texts["static"])
    _modelled(found, after, texts)
    await asyncio.sleep(SETTLE_SECONDS)


async def _behind(made: Traffic, server: Server, setting: Setting) -> Costs:
    await asyncio.sleep(SETTLE_SECONDS)
    return await measured(made, server.metrics, setting.seconds)


def _modelled(found: Placements, recording: Recording, texts: dict[str, str]) -> None:
    """Each placement's modelled time for traffic that none of them was made from, and how unequal that is."""
    demand = recording.windows[-1]
    for name, text in texts.items():
        placement = read_placement(text).placement
        found.modelled_us[name] = replay(demand, placement, recording.supply.costs).slowest_us
    found.exponents[:] = [zipf(tokens_E) for tokens_E in demand.tokens_LE]
    found.hottest[:] = np.argmax(demand.tokens_LE, axis=1).tolist()


def zipf(tokens_E: np.ndarray) -> float:
    """The exponent that fits the busier half of the experts best, in logarithms."""
    ordered = np.sort(tokens_E)[::-1][: len(tokens_E) // 2]
    busy = ordered[ordered > 0]
    slope, _ = np.polyfit(np.log(np.arange(1, len(busy) + 1)), np.log(busy), 1)
    return -float(slope)

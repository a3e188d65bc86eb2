"""How balanced placements are: ours, EPLB's, LPT's and the bound; and how long planning takes.

    python -m tests.benchmarks.bench_placement [--layers 4]

Most over mean load of the shards, mean of the layers: copies share an expert as is best, which choosing copies by batch
comes to, and evenly, as EPLB counts. Ours may hold as many copies in all layers together as EPLB in each.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.balance.planning import plan_placement
from cluster.balance.supply import Supply
from cluster.table import table
from experts.costs import equal_costs
from experts.demand import Demand
from experts.placement import Placement, even_placement
from tests.benchmarks.balance import baselines, loads, measures

Loads = NDArray[np.int64]
SIZES = ((8, 0), (8, 8), (8, 64), (32, 0), (32, 32), (32, 64), (64, 64), (320, 64))
SMALL = ((4, 0), (4, 4), (8, 0), (8, 8), (8, 16))
README = ((8, 4),)
MATTERS = 5e-4  # a difference in balance below this is none


@dataclass(frozen=True)
class Row:
    """Balance by both measures, ours, EPLB's and LPT's, and the bound; the seconds that ours took."""

    name: str
    shards: int
    extra: int
    best: tuple[float, float, float]
    even: tuple[float, float, float]
    bound: float
    seconds: float


def demand_of(tokens_LE: Loads) -> Demand:
    """Counts alone."""
    return Demand(tuple(range(len(tokens_LE))), tokens_LE, 60.0)


def supply_of(layers: int, shards: int, each: int) -> Supply:
    """Equal shards with room for `each` experts of every layer on average; time is that of pairs alone."""
    costs = equal_costs(shards, call_us=1e-6, expert_us=1e-6, pair_us=1.0)
    return Supply(np.full(shards, each * layers), costs, ("n",) * shards)


def compared(name: str, tokens_LE: Loads, shards: int, extra: int, groups: int = 1, nodes: int = 1) -> Row:
    """Plan and measure all sides."""
    layers, experts = tokens_LE.shape
    each = -(-(experts + extra) // shards)
    begun = time.perf_counter()
    placement = plan_placement(demand_of(tokens_LE), supply_of(layers, shards, each))
    seconds = time.perf_counter() - begun
    best, even, bounds = [], [], []
    for layer, load_E in enumerate(tokens_LE.astype(float)):
        sides = [
            [list(placement.layer(layer).held_by(shard)) for shard in range(shards)],
            baselines.eplb(load_E, each * shards, shards, groups, nodes),
            baselines.lpt(load_E, shards),
        ]
        best.append([measures.best(load_E, held) for held in sides])
        even.append([measures.even(load_E, held) for held in sides])
        bounds.append(baselines.bound(load_E, each * shards, shards))
    means = (tuple(np.mean(values, axis=0).tolist()) for values in (best, even))
    return Row(name, shards, each * shards - experts, *means, float(np.mean(bounds)), seconds)


def rows(layers: int) -> list[Row]:
    """All of the comparison."""
    found = [
        compared(f"Zipf {exponent}", loads.zipf(exponent, layers), shards, extra)
        for exponent in (0.5, 1.0, 1.5, 2.0)
        for shards, extra in SIZES
    ]
    found += [compared("EPLB's README, global", loads.README_MATRIX, *size) for size in README]
    found += [compared("EPLB's README, 2 nodes", loads.README_MATRIX, *size, groups=4, nodes=2) for size in README]
    for domain, tokens_LE in loads.recordings().items():
        found += [compared(f"recorded: {domain}", tokens_LE, *size) for size in SMALL]
    return found


def verdict(found: list[Row]) -> str:
    """How often ours is ahead."""
    parts = []
    for measure in ("best", "even"):
        pairs = [getattr(row, measure)[:2] for row in found]
        better = sum(ours < theirs - MATTERS for ours, theirs in pairs)
        worse = sum(ours > theirs + MATTERS for ours, theirs in pairs)
        parts.append(f"shared {measure}: better than EPLB in {better} of {len(pairs)}, worse in {worse}")
    return "; ".join(parts)


def planning_seconds(shards: int, extra: int, current: Placement | None) -> float:
    """The median of three plans of 58 layers of 256 experts."""
    tokens_LE, taken = loads.zipf(1.0, 58), []
    supply = supply_of(58, shards, -(-(256 + extra) // shards))
    for _ in range(3):
        begun = time.perf_counter()
        plan_placement(demand_of(tokens_LE), supply, current)
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[1]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4, help="layers of each Zipf load")
    found = rows(parser.parse_args().layers)
    head = ["load", "shards", "extra", "ours", "EPLB", "LPT", "bound", "ours, even", "EPLB, even", "seconds"]
    body = [
        [row.name, str(row.shards), str(row.extra)]
        + [f"{value:.3f}" for value in (*row.best, row.bound, *row.even[:2])]
        + [f"{row.seconds:.2f}"]
        for row in found
    ]
    print(table(head, body))
    print(verdict(found))
    for shards, extra in ((32, 32), (64, 64), (320, 64)):
        current = even_placement(256, min(shards, 256), room=shards)
        fresh, adapted = planning_seconds(shards, extra, None), planning_seconds(shards, extra, current)
        print(f"58 x 256 on {shards} shards: {fresh:.2f} s from nothing, {adapted:.2f} s from what is held")


if __name__ == "__main__":
    main()

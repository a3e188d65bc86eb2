"""The slowest shard's time by whom is asked for each expert: chosen, evenly split, in turns, the first holder always.

    python -m tests.benchmarks.bench_choice

Experts are chosen as in skewed traffic (Zipf); the hottest ones have one copy more, on the shard that is lightest by
what was routed. Modelled: 256 experts on 16 shards with 64 copies, costs as before any were measured. Measured: 64
experts of a Qwen3-like layer on 8 shards with 16 copies, each shard's call timed by itself on one core with cold
caches (its own processor time, the least of three), and costs fitted to such calls of other batches. All ways take
turns in each batch. The last table is what choosing itself takes.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.table import duration, table
from experts.costs import ShardCosts, equal_costs
from experts.division.chooser import Chooser
from experts.division.choosing import Choice, choose_evenly, choose_in_turns
from experts.division.pairs import PairDivision, divide
from experts.placement import LayerPlacement
from experts.routing import Routing
from kernels import select
from kernels.weights import ExpertWeights

CHOSEN, HIDDEN, FFN = 8, 1024, 384
BATCHES = (1, 8, 32, 512)
SWEPT = 16 << 20  # floats that are read before each call, so that no cache holds weights
TRIES = 3
Way = Callable[[Routing, LayerPlacement, ShardCosts], Choice]


class Traffic:
    """Batches in which expert popularity follows Zipf's law."""

    def __init__(self, experts: int, exponent: float, seed: int) -> None:
        self.random, self.experts = np.random.default_rng(seed), experts
        weights = np.arange(1, experts + 1, dtype=float) ** -exponent
        self.share_E = self.random.permutation(weights / weights.sum())

    def batch(self, tokens: int) -> Routing:
        """Different experts for each token (Gumbel's way of drawing without putting back)."""
        keys_TE = np.log(self.share_E) + self.random.gumbel(size=(tokens, self.experts))
        ids_TK = np.ascontiguousarray(np.argsort(-keys_TE, axis=1)[:, :CHOSEN])
        return Routing(ids_TK, np.full(ids_TK.shape, 1 / CHOSEN, np.float32))

    def placement(self, shards: int, copies: int) -> LayerPlacement:
        """Experts evenly by number, and one copy more of the hottest, each on the shard that is lightest then."""
        holders = [[expert * shards // self.experts] for expert in range(self.experts)]
        loads = [sum(self.share_E[e] for e in range(self.experts) if holders[e] == [s]) for s in range(shards)]
        for expert in np.argsort(-self.share_E)[:copies].tolist():
            home, half = holders[expert][0], self.share_E[expert] / 2
            other = min((shard for shard in range(shards) if shard != home), key=lambda shard: loads[shard])
            holders[expert].append(other)
            loads[home], loads[other] = loads[home] - half, loads[other] + half
        return LayerPlacement(tuple(map(tuple, holders)))


def counts(routing: Routing, layer: LayerPlacement) -> NDArray[np.int64]:
    """The pairs of each expert."""
    return np.bincount(routing.expert_ids_TK.reshape(-1), minlength=layer.experts)


def first_holder(routing: Routing, layer: LayerPlacement, costs: ShardCosts) -> Choice:  # noqa: ARG001 (a way)
    """As without copies."""
    return Choice(np.where(counts(routing, layer) > 0, layer.home_of_E, -1).astype(np.int32))


def ways(shards: int) -> dict[str, Way]:
    """How to choose."""
    ranks = [0] * shards

    def chosen(routing: Routing, layer: LayerPlacement, costs: ShardCosts) -> Choice:
        found = Chooser(costs).choose(routing.expert_ids_TK, layer, ranks)
        assert found is not None
        return found

    return {
        "chosen": chosen,
        "evenly": lambda routing, layer, costs: choose_evenly(counts(routing, layer), layer, costs),
        "in turns": lambda routing, layer, costs: choose_in_turns(counts(routing, layer), layer, costs),
        "first holder": first_holder,
    }


def modelled(traffic: Traffic, layer: LayerPlacement, shards: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the slowest shard by way."""
    costs, batches = equal_costs(shards), [traffic.batch(tokens) for _ in range(rounds)]
    return {
        name: [way(one, layer, costs).slowest_us(counts(one, layer), costs) / 1e6 for one in batches]
        for name, way in ways(shards).items()
    }


class Layer:
    """One layer's experts, of which a shard's call takes some."""

    def __init__(self, experts: int) -> None:
        random = torch.Generator().manual_seed(0)
        self._ops = select.ops("auto", torch.device("cpu"))
        shapes = ((experts, 2 * FFN, HIDDEN), (experts, HIDDEN, FFN))
        gate_up, down = (torch.randn(shape, generator=random).mul_(0.02).bfloat16() for shape in shapes)
        self._weights: ExpertWeights = self._ops.prepare_weights(gate_up, down)
        self._swept = torch.ones(SWEPT)

    def seconds(self, x_TD: torch.Tensor, division: PairDivision, parts: range) -> float:
        """What one shard's call takes."""
        rows = division.call_rows(parts)
        x_RD = x_TD[torch.from_numpy(rows.tokens_R)]
        rows_A, experts_A = (torch.from_numpy(one.astype(np.int64)) for one in (rows.rows_A, rows.experts_A))
        weights_A = torch.from_numpy(rows.weights_A.copy())
        taken = []
        for _ in range(TRIES):
            self._swept.sum()
            begun = time.thread_time()
            self._ops.expert_rows(x_RD, self._weights, rows_A, experts_A, weights_A)
            taken.append(time.thread_time() - begun)
        return min(taken)

    def fitted(self, traffic: Traffic, placed: LayerPlacement, shards: int, batches: int) -> ShardCosts:
        """The costs by least squares of the relative error, the same for all shards: they are one core here."""
        sizes, taken = [], []
        for _ in range(batches):
            for tokens in BATCHES:
                routing, x_TD = traffic.batch(tokens), torch.randn(tokens, HIDDEN).bfloat16()
                division = divide(routing, placed, first_holder(routing, placed, equal_costs(shards)))
                for _, parts in division.runs:
                    size = division.sizes(parts)
                    sizes.append((1.0, size.experts, size.assignments))
                    taken.append(1e6 * self.seconds(x_TD, division, range(parts[0], parts[-1] + 1)))
        scaled = np.array(sizes) / np.array(taken)[:, None]
        found, *_ = np.linalg.lstsq(scaled, np.ones(len(taken)), rcond=None)
        return equal_costs(shards, *np.maximum(found, 0.01).tolist())

    def slowest(self, routing: Routing, x_TD: torch.Tensor, placed: LayerPlacement, choice: Choice) -> float:
        """Seconds of the slowest shard's call."""
        division = divide(routing, placed, choice)
        return max(self.seconds(x_TD, division, range(parts[0], parts[-1] + 1)) for _, parts in division.runs)


def measured(
    traffic: Traffic, layer: Layer, placed: LayerPlacement, costs: ShardCosts, tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of the slowest shard by way."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        routing, x_TD = traffic.batch(tokens), torch.randn(tokens, HIDDEN).bfloat16()
        each = list(ways(len(costs.call_us_S)).items())
        for name, way in each[number % 4 :] + each[: number % 4]:
            found.setdefault(name, []).append(layer.slowest(routing, x_TD, placed, way(routing, placed, costs)))
    return found


def row(tokens: int, found: dict[str, list[float]]) -> list[str]:
    """Ours in microseconds, and how much longer the others take, over all batches."""
    ours = sum(found["chosen"])
    others = [f"{sum(found[name]) / ours:.2f}" for name in ("evenly", "in turns", "first holder")]
    return [str(tokens), duration(ours / len(found["chosen"])), *others]


def choosing(traffic: Traffic, placed: LayerPlacement, shards: int, tokens: int, rounds: int) -> list[str]:
    """What choosing takes, and choosing and dividing."""
    chooser, ranks, batches = Chooser(equal_costs(shards)), [0] * shards, [traffic.batch(tokens) for _ in range(40)]
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        routing = batches[number % len(batches)]
        begun = time.perf_counter()
        chooser.choose(routing.expert_ids_TK, placed, ranks)
        between = time.perf_counter()
        chooser.divide(routing, placed, ranks)
        taken[0].append(between - begun)
        taken[1].append(time.perf_counter() - between)
    return [str(tokens), *(f"{duration(median(one))} ({duration(sorted(one)[len(one) // 10])})" for one in taken)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zipf", type=float, nargs="+", default=[0.5, 1.0, 1.5])
    parser.add_argument("--rounds", type=int, default=40, help="batches of each size; prompts have a quarter")
    args = parser.parse_args()
    torch.set_num_threads(1)
    layer, titles = Layer(64), ["tokens", "chosen", "evenly", "in turns", "first holder"]
    with torch.inference_mode():
        for exponent in args.zipf:
            traffic = Traffic(256, exponent, seed=1)
            placed = traffic.placement(16, 64)
            rows = [row(tokens, modelled(traffic, placed, 16, tokens, args.rounds)) for tokens in BATCHES]
            print(f"Zipf {exponent}, modelled: slowest shard, and the others' over that\n{table(titles, rows)}")
            traffic = Traffic(64, exponent, seed=2)
            placed = traffic.placement(8, 16)
            costs = layer.fitted(traffic, placed, 8, max(1, args.rounds // 10))
            rounds = {tokens: max(1, args.rounds // (4 if tokens > 64 else 1)) for tokens in BATCHES}
            rows = [row(n, measured(traffic, layer, placed, costs, n, rounds[n])) for n in BATCHES]
            call_us, expert_us, pair_us = (us_S[0] for us_S in (costs.call_us_S, costs.expert_us_S, costs.pair_us_S))
            print(f"measured, {call_us:.0f} us a call, {expert_us:.0f} an expert, {pair_us:.1f} a pair")
            print(table(titles, rows))
    traffic = Traffic(256, 1.0, seed=1)
    rows = [choosing(traffic, traffic.placement(16, 64), 16, tokens, 10 * args.rounds) for tokens in (1, 8, 32, 256)]
    print("choosing for 256 experts, 16 shards, 64 copies: median, in brackets what the fastest tenth took at most")
    print(table(["tokens", "choosing", "choosing and dividing"], rows))


if __name__ == "__main__":
    main()

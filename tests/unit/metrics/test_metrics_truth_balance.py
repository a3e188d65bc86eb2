"""Every balance series against its formula, written out here on a routing of known skew, layer by layer."""

import math
from fractions import Fraction

import numpy as np
import pytest

from experts.placement import placement_of
from experts.routing import Routing
from router_service.config import MetricsConfig
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from tests.support.scrape import Page, exposed, value
from tests.support.trips import trips_of

# Eight experts on three shards of unlike sizes; two experts a token; layers 1 and 3 have experts.
SHARDS = ((0, 6), (1, 2, 7), (3, 4, 5))
# How many tokens go to each pair of experts: skewed in layer 1 (experts 5 and 7 are dead), even in layer 3.
PAIRS = {
    1: {(0, 6): 300, (0, 1): 100, (2, 3): 80, (4, 0): 20},
    3: {(0, 1): 125, (2, 3): 125, (4, 5): 125, (6, 7): 125},
}
STEPS = 4
EXPERTS, LAYERS = 8, 4


def step(pairs: dict[int, dict[tuple[int, int], int]]) -> StepRecord:
    routings = []
    for layer, tokens in pairs.items():
        ids = np.repeat(np.array(list(tokens)), list(tokens.values()), axis=0)
        routings.append((layer, Routing(ids, np.ones(ids.shape, np.float32))))
    return StepRecord(10**9, 0, 500, StepTrace(routings=routings, trips=trips_of(routings, placement_of(SHARDS))))


def experts_of(tokens: dict[tuple[int, int], int]) -> list[int]:
    """Tokens of each expert in one step of a layer."""
    return [sum(count for pair, count in tokens.items() if expert in pair) for expert in range(EXPERTS)]


def shards_of(tokens: dict[tuple[int, int], int]) -> list[int]:
    counts = experts_of(tokens)
    return [sum(counts[expert] for expert in held) for held in SHARDS]


def max_over_mean(counts: list[int]) -> Fraction:
    return Fraction(max(counts) * len(counts), sum(counts))


def entropy(counts: list[int]) -> float:
    shares = [count / sum(counts) for count in counts if count]
    return -sum(share * math.log(share) for share in shares) / math.log(len(counts))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture(params=[1, 3, STEPS])
def statistics(request: pytest.FixtureRequest) -> Statistics:
    """The same steps, however many are added up at once."""
    statistics = Statistics(lambda: placement_of(SHARDS), LAYERS)
    for number in range(STEPS):
        statistics.observe(step(PAIRS))
        if number % request.param == 0:
            statistics.flush()
    return statistics


def test_a_known_skew_is_what_the_formulas_say(statistics: Statistics) -> None:
    metrics = exposed(statistics)
    experts, shards = [experts_of(t) for t in PAIRS.values()], [shards_of(t) for t in PAIRS.values()]
    assert value(metrics, "expert_load_imbalance") == pytest.approx(mean([float(max_over_mean(c)) for c in experts]))
    assert value(metrics, "max_violation") == pytest.approx(mean([float(max_over_mean(c) - 1) for c in experts]))
    assert value(metrics, "balancedness") == pytest.approx(mean([float(1 / max_over_mean(c)) for c in shards]))
    assert value(metrics, "router_entropy_ratio") == pytest.approx(mean([entropy(c) for c in experts]))
    assert value(metrics, "dead_experts") == sum(count == 0 for counts in experts for count in counts) == 2
    ratios = [float(max_over_mean(counts)) for counts in shards]
    assert value(metrics, "shard_load_imbalance_sum") == pytest.approx(STEPS * sum(ratios))
    assert value(metrics, "shard_load_imbalance_count") == STEPS * len(PAIRS)


def test_each_call_is_in_the_bucket_of_its_ratio(statistics: Statistics) -> None:
    ratios = [float(max_over_mean(shards_of(tokens))) for tokens in PAIRS.values()]
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in exposed(statistics)["expertmesh_shard_load_imbalance"].samples
        if "le" in sample.labels
    }
    assert buckets == {bound: STEPS * sum(ratio <= bound for ratio in ratios) for bound in buckets}
    assert len(set(buckets.values())) == 3


def test_each_layer_is_told_by_itself_if_asked(statistics: Statistics) -> None:
    metrics = exposed(statistics, MetricsConfig(per_layer=True, per_expert=True, top_experts=EXPERTS))
    for layer, tokens in PAIRS.items():
        counts = experts_of(tokens)
        assert of_layer(metrics, "expert_load_imbalance", layer) == pytest.approx(float(max_over_mean(counts)))
        assert of_layer(metrics, "router_entropy_ratio", layer) == pytest.approx(entropy(counts))
        assert of_layer(metrics, "dead_experts", layer) == counts.count(0)
        for expert, count in enumerate(counts):
            labels = {"layer": str(layer), "expert": str(expert)}
            assert value(metrics, "expert_tokens_total", **labels) == STEPS * count


def of_layer(metrics: Page, name: str, layer: int) -> float:
    return value(metrics, name, layer=str(layer))


def test_only_the_busiest_experts_are_told(statistics: Statistics) -> None:
    metrics = exposed(statistics, MetricsConfig(per_expert=True, top_experts=3))
    for layer, tokens in PAIRS.items():
        counts = sorted(experts_of(tokens), reverse=True)
        told = [s.value for s in metrics["expertmesh_expert_tokens"].samples if s.labels["layer"] == str(layer)]
        assert sorted(told, reverse=True) == [STEPS * count for count in counts[:3]]

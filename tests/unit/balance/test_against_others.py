"""Ours against EPLB, LPT and what no placement can be better than; the measures and baselines themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.balance import baselines, loads, measures
from tests.benchmarks.balance.recordings import DOMAINS, recorded
from tests.benchmarks.bench_placement import MATTERS, Row, compared

ZIPF = (0.5, 1.0, 1.5, 2.0)


@pytest.mark.parametrize("exponent", ZIPF)
@pytest.mark.parametrize(("shards", "extra"), [(8, 0), (8, 8), (16, 16), (16, 48)])
def test_on_zipf_loads_ours_is_as_balanced_as_the_others(exponent: float, shards: int, extra: int) -> None:
    row = compared("", loads.zipf(exponent, 2, 64), shards, extra)
    check(row)
    if extra >= shards:  # copies allow any balance
        assert row.best[0] <= 1.02 * row.bound


@pytest.mark.parametrize(("groups", "nodes"), [(1, 1), (4, 2)])
def test_on_the_matrix_of_its_readme_ours_is_more_balanced(groups: int, nodes: int) -> None:
    row = compared("", loads.README_MATRIX, 8, 4, groups, nodes)
    check(row)
    assert row.best[0] < row.best[1] - 0.02


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("shards", "extra"), [(4, 0), (4, 4), (8, 0), (8, 8)])
def test_on_recorded_loads_ours_is_more_balanced(domain: str, shards: int, extra: int) -> None:
    row = compared(domain, recorded(domain).tokens_LE, shards, extra)
    check(row)
    assert row.best[0] < row.best[1] - MATTERS


def check(row: Row) -> None:
    """Never worse than EPLB; nobody is better than the bound."""
    ours, theirs, _ = row.best
    assert ours <= theirs + MATTERS
    assert min(row.best[:2]) >= row.bound - 1e-6


def test_eplb_places_its_readme_s_example_as_described() -> None:
    """16 copies on 8 GPUs of 2 nodes: two each; an expert's copies stay on the node of its group."""
    for load_E in loads.README_MATRIX.astype(float):
        held = baselines.eplb(load_E, 16, 8, groups=4, nodes=2)
        assert [len(experts) for experts in held] == [2] * 8
        nodes = [{expert // 3 for shard in held[start : start + 4] for expert in shard} for start in (0, 4)]
        assert all(len(groups) == 2 for groups in nodes)
        assert not nodes[0] & nodes[1]


def test_groups_that_nodes_do_not_divide_are_placed_globally() -> None:
    load_E = np.arange(1.0, 13)
    assert baselines.eplb(load_E, 16, 4, groups=3, nodes=2) == baselines.eplb(load_E, 16, 4)


@pytest.mark.parametrize(
    ("held", "even", "best"),
    [
        ([[0], [1]], 1.5, 1.5),
        ([[0], [0, 1]], 1.25, 1.0),  # 3 and 1: 1.5 + 2.5 evenly, 2 + 2 at best
        ([[0, 1], [0, 1]], 1.0, 1.0),
        ([[0, 0], [0, 1]], 1.0, 1.0),  # a copy twice on a shard bears two shares
    ],
)
def test_balance_is_measured_by_both_ways_to_share(held: list[list[int]], even: float, best: float) -> None:
    load_E = np.array([3.0, 1.0])
    assert measures.even(load_E, held) == pytest.approx(even)
    assert measures.best(load_E, held) == pytest.approx(best, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=4, max_size=16), st.integers(2, 4), st.integers(0, 8))
def test_the_best_shares_are_no_worse_than_even_ones_and_no_better_than_the_bound(
    load: list[int], shards: int, extra: int
) -> None:
    load_E, each = np.array(load, float), -(-(len(load) + extra) // shards)
    held = baselines.eplb(load_E, each * shards, shards)
    best = measures.best(load_E, held)
    assert baselines.bound(load_E, each * shards, shards) - 1e-3 <= best <= measures.even(load_E, held) + 1e-3

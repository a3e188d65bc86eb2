"""Whether copies would pay: even, skewed and passing heat."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cluster.balance.advice import CURVE, TooLittleError, advise
from cluster.balance.advice_report import Advice
from cluster.balance.supply import Supply
from experts.costs import equal_costs
from experts.placement import even_placement
from tests.support.routed_traffic import demand, zipf

LAYERS, EXPERTS, SHARDS = 4, 16, 4
CURRENT = even_placement(EXPERTS, SHARDS)
COSTS = equal_costs(SHARDS, call_us=5.0, expert_us=1.0, pair_us=10.0)  # rows count: prompts
SUPPLY = Supply(np.full(SHARDS, LAYERS * EXPERTS // SHARDS), COSTS, ("",) * SHARDS, 1, 1 << 20)


def advised(*seeds: int, exponent: float, tokens: int = 128) -> Advice:
    """Advice for windows of which each has the heat of a seed."""
    windows = [
        demand(zipf(LAYERS, EXPERTS, exponent, seed), steps=12, tokens=tokens, seed=place)
        for place, seed in enumerate(seeds)
    ]
    return advise(windows, SUPPLY, CURRENT)


def test_even_traffic_needs_nothing() -> None:
    advice = advised(0, 0, 0, 0, exponent=0.0, tokens=1024)
    assert (advice.recommendation, advice.extra_copies) == ("leave", 0)
    assert "not worth a move" in advice.reason
    assert advice.expert_imbalance < 1.3
    assert advice.hot == []


def test_small_steps_are_uneven_by_chance_which_copies_even_out_whatever_is_hot() -> None:
    advice = advised(0, 0, 0, 0, exponent=0.0, tokens=32)
    assert advice.recommendation == "copies"
    assert "heat passes, what is saved is from evening out single steps" in advice.reason


def test_lasting_heat_needs_copies_and_the_curve_says_what_each_gives_and_costs() -> None:
    advice = advised(0, 0, 0, 0, exponent=2.0)
    assert advice.recommendation in ("copies", "move")
    assert "lasts" not in advice.reason
    assert [one.extra_copies for one in advice.curve] == list(CURVE)
    gains = [one.gain for one in advice.curve]
    assert max(gains) > 0.1
    assert gains[-1] >= gains[0]
    for one in advice.curve:
        assert 0 <= one.memory_bytes <= one.extra_copies * SHARDS * LAYERS << 20
    assert advice.shard_imbalance > 1.2
    assert advice.shard_time_imbalance > 1.2
    assert advice.persistence > 0.9
    assert advice.hot
    assert advice.tokens == 4 * 12 * 128
    hottest = {one.layer: one.experts[0] for one in advice.hot}
    heat_LE = zipf(LAYERS, EXPERTS, 2.0)
    assert hottest == {layer: int(heat_LE[layer].argmax()) for layer in hottest}


def lasting(advice: Advice) -> float:
    """The part of the gain that stays: some does for any heat, as copies of any experts even out single steps."""
    return sum(one.lasting_gain for one in advice.curve) / sum(one.gain for one in advice.curve)


def test_heat_that_passes_is_told_apart() -> None:
    advice = advised(1, 2, 3, 4, exponent=2.0)
    assert "heat passes" in advice.reason
    assert advice.persistence < 0.5
    assert lasting(advice) < 0.8 * lasting(advised(1, 1, 1, 1, exponent=2.0))


def test_as_json_and_as_text_it_says_the_same() -> None:
    advice = advised(0, 0, exponent=2.0)
    data = json.loads(advice.to_json())
    assert data["recommendation"] == advice.recommendation
    assert len(data["curve"]) == len(CURVE)
    text = advice.text()
    assert f"{advice.recommendation}: {advice.reason}" in text
    assert len(text.splitlines()) == 6 + len(CURVE)


def test_too_little_is_refused() -> None:
    with pytest.raises(TooLittleError, match=r"too little was routed: .*: serve more first"):
        advise([demand(zipf(LAYERS, EXPERTS, 1.0), steps=1, tokens=2)], SUPPLY, CURRENT)
    with pytest.raises(TooLittleError, match="nothing was routed: serve more first"):
        advise([], SUPPLY, CURRENT)


def test_windows_of_another_model_are_refused() -> None:
    one = demand(zipf(LAYERS, EXPERTS, 1.0))
    with pytest.raises(ValueError, match="of different layers or experts"):
        advise([one, replace(one, layers=(1, 2, 3, 4))], SUPPLY, CURRENT)

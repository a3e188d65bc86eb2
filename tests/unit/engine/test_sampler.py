"""Drawing: the distribution is transformers' and the draws follow it; the seed and the position decide, nobody else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from router_service.engine.sampling.adjustments import adjusted
from router_service.engine.sampling.filters import FIRST_CANDIDATES, MORE_CANDIDATES, best_candidates
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.sampling.sampler import sample
from router_service.engine.sampling.uniform import uniform
from router_service.protocol.messages import SamplingParams

VOCABULARY = 97
PROMPT, GENERATED = [5, 5, 9, 30], [30, 7, 7, 7, 96]


def row(seed: int = 0, tokens: Sequence[int] = (1, 2, 3), prompt_length: int = 2, **params: Any) -> SampleRow:
    return SampleRow(SamplingParams(max_tokens=9, seed=seed, **params), list(tokens), prompt_length)


def adjust(logits_BV: Tensor, rows: list[SampleRow]) -> Tensor:
    with adjusted(logits_BV, rows):
        return logits_BV.clone()


def draw(logits_V: Tensor, rows: list[SampleRow]) -> list[int]:
    return [drawn.token for drawn in sample(logits_V.expand(len(rows), -1).contiguous(), rows)]


def grid(logits_V: Tensor, points: int, monkeypatch: pytest.MonkeyPatch, **params: Any) -> Tensor:
    """Each token's share of draws with evenly spaced numbers in place of random ones: within 1/points of exact."""
    monkeypatch.setattr(
        "router_service.engine.sampling.sampler.uniform", lambda seeds, _: (np.array(seeds) + 0.5) / points
    )
    tokens = draw(logits_V, [row(seed, **params) for seed in range(points)])
    monkeypatch.undo()
    return torch.bincount(torch.tensor(tokens), minlength=len(logits_V)) / points


def theirs(logits_V: Tensor, tokens: Sequence[int] = (), **params: float) -> Tensor:
    """transformers' distribution."""
    make: dict[str, Any] = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    processors = LogitsProcessorList([make[name](params[name]) for name in make if name in params])
    scores: Tensor = processors(torch.tensor([list(tokens)], dtype=torch.long), logits_V[None].clone())
    return scores.softmax(-1)[0]


def random_logits(seed: int, size: int = VOCABULARY, spread: float = 2.0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 500},
        {"top_p": 0.001},
        {"top_p": 0.6},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
        {"temperature": 1.8, "top_k": 9, "top_p": 0.5},
    ],
    ids=str,
)
def test_the_distribution_is_transformers(params: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    logits_V, points = random_logits(1), 4000
    want = theirs(logits_V, **({"temperature": 1.0} | {k: min(v, VOCABULARY) for k, v in params.items()}))
    got = grid(logits_V, points, monkeypatch, **params)
    assert (got - want).abs().max() <= 1.01 / points
    assert not (got[want == 0] > 0).any()


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 3000},
        {"top_p": 0.95},
        {"min_p": 0.001},
        {"top_k": 3000, "top_p": 0.5},
        {"top_k": 3000, "top_p": 0.3},
        {"top_k": 1024},
        {"top_k": 1025, "top_p": 0.999},
        {"top_k": 3, "top_p": 0.4},
    ],
    ids=str,
)
def test_filters_that_reach_beyond_the_first_candidates(
    params: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a vocabulary so even that many tokens stay; and alike whatever a neighbour's filters reach for."""
    logits_V, points = random_logits(2, 5000, 1.0), 300
    assert FIRST_CANDIDATES < 3000
    want, got = theirs(logits_V, **params), grid(logits_V, points, monkeypatch, **params)
    assert (got - want).abs().max() <= 1.01 / points
    assert not (got[want == 0] > 0).any()
    alone = [draw(logits_V, [row(seed, **params)])[0] for seed in range(5)]
    wide = row(0, top_p=0.9999)
    assert [draw(logits_V, [wide, row(seed, **params)])[1] for seed in range(5)] == alone


def test_penalties() -> None:
    """Repetition as in transformers, prompt included; frequency and presence by their definition, answer only."""
    logits_V, tokens = random_logits(3), PROMPT + GENERATED
    for penalty in (0.5, 1.7):
        want = theirs(logits_V, tokens, repetition_penalty=penalty)
        got = adjust(logits_V[None], [row(0, tokens, 4, repetition_penalty=penalty)])[0].softmax(-1)
        torch.testing.assert_close(got, want)
    kept = logits_V.clone()
    got = adjust(logits_V[None], [row(0, tokens, 4, frequency_penalty=0.3, presence_penalty=-1.0)])[0]
    want = logits_V.clone()
    for token, count in ((30, 1), (7, 3), (96, 1)):
        want[token] -= 0.3 * count - 1.0
    torch.testing.assert_close(got, want)
    assert torch.equal(logits_V, kept), "the logits stay as they are"


def test_penalties_touch_their_own_row_only() -> None:
    logits_BV = torch.stack([random_logits(n) for n in range(3)])
    got = adjust(logits_BV, [row(), row(0, PROMPT, 2, presence_penalty=2.0), row()])
    assert torch.equal(got[[0, 2]], logits_BV[[0, 2]])
    assert not torch.equal(got[1], logits_BV[1])


def test_greedy_takes_the_best_and_of_equals_always_the_same() -> None:
    logits_V = random_logits(4)
    assert draw(logits_V, [row(temperature=0.0)] * 3) == [int(logits_V.argmax())] * 3
    ties = torch.zeros(VOCABULARY)
    ties[[11, 40, 41]] = 1.0
    assert set(draw(ties, [row(seed, temperature=0.0) for seed in range(9)])) == {11}
    assert draw(ties, [row(seed, top_k=1) for seed in range(9)]) == [11] * 9


def test_ties_are_kept_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second best of equals is the one with the second lowest id, for every backend and batch."""
    ties = torch.zeros(VOCABULARY)
    assert best_candidates(ties[None], 4).tolist() == [[0, 1, 2, 3]]
    shares = grid(ties, 100, monkeypatch, top_k=4)
    assert shares[:4].tolist() == pytest.approx([0.25] * 4)
    signs = torch.tensor([[-0.5, 3.0, -2.0, 0.5, torch.finfo(torch.float32).min, 3.0]])
    assert best_candidates(signs, 6).tolist() == [[1, 5, 3, 0, 2, 4]]


def test_draws_follow_the_distribution() -> None:
    """Chi-square of 4000 seeds over the tokens expected at least 8 times; fixed seeds, so it cannot flicker."""
    logits_V, count = random_logits(5), 4000
    want = logits_V.softmax(-1).double() * count
    tokens = draw(logits_V, [row(seed) for seed in range(count)])
    got = torch.bincount(torch.tensor(tokens), minlength=VOCABULARY).double()
    often = want >= 8
    observed = torch.cat((got[often], got[~often].sum()[None]))
    expected = torch.cat((want[often], want[~often].sum()[None]))
    statistic, freedom = float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_uniform_numbers_are_uniform_in_seed_and_position() -> None:
    for numbers in (
        uniform(range(4000), [7] * 4000),
        uniform([7] * 4000, range(4000)),
        uniform([2**64 - 1 - seed for seed in range(4000)], range(4000)),
    ):
        assert 0 <= numbers.min() < numbers.max() < 1
        distance = np.abs(np.sort(numbers) - (np.arange(4000) + 0.5) / 4000).max()
        assert distance < 1.95 / 4000**0.5, "Kolmogorov-Smirnov at 0.1 %"
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 4 / 4000**0.5
    assert 0 <= uniform([2**64 - 1], [2**64 - 1])[0] < 1


def test_uniform_numbers_stay_as_they_are() -> None:
    """A router of another version that continues a stream must draw the same: splitmix64 in plain integers."""
    seeds, positions = [0, 1, 7, 2**63 - 1, 2**64 - 1], [0, 900, 1, 131071, 3]
    want = [mixed(mixed(seed) ^ position) / 2**64 for seed, position in zip(seeds, positions, strict=True)]
    assert uniform(seeds, positions).tolist() == want


def mixed(value: int) -> int:
    """One round, of which the upper 53 bits count."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return (value ^ (value >> 31)) >> 11 << 11


@given(
    st.lists(
        st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0, 3.0]), min_size=200, max_size=200), min_size=1, max_size=3
    ),
    st.sampled_from([0, 1, 5, 100, 200, 300]),
)
def test_the_best_candidates_are_those_of_a_whole_sort(rows: list[list[float]], count: int) -> None:
    """With ties at every place, more of them than the quick way looks at, and with a negative zero below zero."""
    assert MORE_CANDIDATES < 200 - 100
    want = [
        sorted(range(200), key=lambda id: (-row[id], np.signbit(row[id]) and row[id] == 0, id))[:count] for row in rows
    ]
    assert best_candidates(torch.tensor(rows), count).tolist() == want


PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 5, 60]),
        "top_p": st.sampled_from([0.2, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.1]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "frequency_penalty": st.sampled_from([0.0, 0.5]),
        "logit_bias": st.sampled_from([{}, {7: 3.5, 30: -100.0}]),
        "min_tokens": st.sampled_from([0, 9]),
        "stop_token_ids": st.sampled_from([(), (7, 12)]),
        "logprobs": st.sampled_from([None, 0, 3]),
    }
)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), PARAMS), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_neighbours_do_not_matter(requests: list[tuple[int, dict[str, Any]]], seed: int) -> None:
    logits_BV = torch.stack([random_logits(seed + n) for n in range(len(requests))])
    rows = [row(number, PROMPT + GENERATED, 4, **params) for number, params in requests]
    together = sample(logits_BV, rows)
    alone = [sample(logits_BV[n : n + 1], rows[n : n + 1])[0] for n in range(len(rows))]
    assert together == alone
    order = list(reversed(range(len(rows))))
    assert sample(logits_BV[order], [rows[n] for n in order]) == together[::-1]


def test_the_seed_and_the_position_matter() -> None:
    logits_V = random_logits(6)
    by_seed = draw(logits_V, [row(seed) for seed in range(50)])
    by_position = [draw(logits_V, [row(1, range(1, 1 + n))])[0] for n in range(1, 51)]
    assert len(set(by_seed)) > 5
    assert len(set(by_position)) > 5
    assert draw(logits_V, [row(3, (4, 5, 6), 1)]) == draw(logits_V, [row(3, (9, 9, 9), 2)])


@pytest.mark.parametrize("temperature", [1e-50, 1e-45, 1e-38, 1e-10, 1e-3])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits_V = random_logits(7)
    best = int(logits_V.argmax())
    assert draw(logits_V, [row(seed, temperature=temperature) for seed in range(5)]) == [best] * 5
    assert draw(logits_V, [row(seed, temperature=temperature, top_p=0.9) for seed in range(5)]) == [best] * 5


@pytest.mark.parametrize("count", [0, 1, 20, VOCABULARY, VOCABULARY + 9])
def test_logprobs_are_the_models_own(count: int) -> None:
    """Before penalties, temperature and filters; more than the vocabulary has are as many as it has."""
    logits_V = random_logits(8)
    want = logits_V.log_softmax(-1)
    drawn = sample(logits_V[None], [row(1, PROMPT, 2, temperature=0.4, repetition_penalty=2.0, logprobs=count)])[0]
    assert drawn.logprobs is not None
    assert drawn.logprobs.chosen.token_id == drawn.token
    assert drawn.logprobs.chosen.logprob == pytest.approx(float(want[drawn.token]), abs=1e-6)
    best = want.topk(min(count, VOCABULARY))
    assert [one.token_id for one in drawn.logprobs.top] == best.indices.tolist()
    assert [one.logprob for one in drawn.logprobs.top] == pytest.approx(best.values.tolist(), abs=1e-6)

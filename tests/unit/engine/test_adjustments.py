"""Logit bias, stop tokens ruled out and penalties, against a reference in plain Python."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from router_service.engine.sampling.adjustments import adjusted
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.sampling.sampler import sample
from router_service.engine.sampling.token_counts import TokenCounts
from router_service.protocol.messages import SamplingParams

VOCABULARY = 40
EOS = 3
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.sampled_from([0.7, 1.05, 2.0]),
        "frequency_penalty": st.sampled_from([-2.0, 0.3]),
        "presence_penalty": st.sampled_from([-0.5, 1.5]),
        "logit_bias": st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-100, 100, width=32), max_size=5),
        "min_tokens": st.integers(0, 40),
        "stop_token_ids": st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
        "ignore_eos": st.booleans(),
    },
)
REQUESTS = st.lists(st.tuples(TOKENS.filter(bool), TOKENS, PARAMS), min_size=1, max_size=5)


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, VOCABULARY), generator=torch.Generator().manual_seed(seed)) * 3


def row(prompt: list[int], generated: list[int], **params: Any) -> SampleRow:
    return SampleRow(SamplingParams(max_tokens=99, **params), [*prompt, *generated], len(prompt))


def reference(logits_V: NDArray[np.float32], prompt: list[int], generated: list[int], params: dict[str, Any]) -> Any:
    """By the definitions, token by token, in float32 as the engine computes."""
    wanted, one = SamplingParams(max_tokens=99, **params), np.float32
    for id in range(VOCABULARY):
        value = logits_V[id] + one(wanted.logit_bias.get(id, 0.0))
        if id in prompt or id in generated:
            penalty = one(wanted.repetition_penalty)
            value = value / penalty if value > 0 else value * penalty
        value -= one(wanted.frequency_penalty) * one(generated.count(id)) + one(wanted.presence_penalty) * (
            id in generated
        )
        stops = id in wanted.stop_token_ids or (id == EOS and not wanted.ignore_eos)
        logits_V[id] = -np.inf if stops and len(generated) < wanted.min_tokens else value
    return logits_V


@given(REQUESTS)
def test_adjusted_logits_are_those_of_the_definitions(
    requests: list[tuple[list[int], list[int], dict[str, Any]]],
) -> None:
    logits_BV = logits_of(len(requests))
    kept = logits_BV.clone()
    with adjusted(logits_BV, [row(prompt, done, **params) for prompt, done, params in requests], [EOS]):
        got = logits_BV.clone()
    assert torch.equal(logits_BV, kept)
    for number, (prompt, done, params) in enumerate(requests):
        want = torch.from_numpy(reference(kept[number].numpy().copy(), prompt, done, params))
        torch.testing.assert_close(got[number], want, rtol=1e-6, atol=1e-6)


@given(TOKENS.filter(bool), TOKENS, st.data())
def test_counts_kept_step_by_step_are_those_counted_at_once(
    prompt: list[int], generated: list[int], data: st.DataObject
) -> None:
    """And those of a stream that another router began: it comes as prompt and tokens generated so far."""
    tokens, counts = list(prompt), TokenCounts(len(prompt))
    for token in generated:
        if data.draw(st.booleans()):
            counts.update(tokens)
        tokens.append(token)
    counts.update(tokens)
    counts.update(tokens)
    resumed = TokenCounts(len(prompt))
    resumed.update([*prompt, *generated])
    for one in (counts, resumed):
        assert sorted(one.ids_N.tolist()) == sorted({*prompt, *generated})
        assert {int(id): int(n) for id, n in zip(one.ids_N, one.generated_N, strict=True) if n} == {
            id: generated.count(id) for id in generated
        }


def test_a_long_stream_outgrows_its_arrays() -> None:
    counts, tokens = TokenCounts(2), [5, 5]
    for token in range(3000):
        tokens.append(token)
        counts.update(tokens)
    assert sorted(counts.ids_N.tolist()) == list(range(3000))
    assert counts.generated_N.tolist() == [1.0] * 3000


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_token_is_not_drawn_before_min_tokens(temperature: float) -> None:
    logits_BV = torch.zeros(1, VOCABULARY)
    logits_BV[0, [EOS, 8]] = 50.0
    logits_BV[0, 11] = 30.0
    params = {"min_tokens": 2, "stop_token_ids": (8,), "temperature": temperature}
    drawn = [sample(logits_BV, [row([1], [4] * done, **params)], [EOS])[0].token for done in range(4)]
    assert drawn[:2] == [11, 11]
    assert set(drawn[2:]) <= {EOS, 8}
    assert sample(logits_BV, [row([1], [], ignore_eos=True, **params)], [EOS])[0].token == EOS


def test_an_end_token_beyond_the_head_is_no_fault() -> None:
    assert sample(torch.zeros(1, VOCABULARY), [row([1], [], min_tokens=1)], [VOCABULARY + 7])[0].token < VOCABULARY


def test_logit_bias_forbids_and_forces_and_log_probabilities_do_not_see_it() -> None:
    logits_BV = logits_of(1)
    best = int(logits_BV.argmax())
    for params in ({"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 5}):
        assert sample(logits_BV, [row([1], [], logit_bias={best: -100.0}, **params)])[0].token != best
        forced = sample(logits_BV, [row([1], [], logit_bias={17: 100.0}, logprobs=1, **params)])[0]
        assert forced.token == 17
        assert forced.logprobs is not None
        assert forced.logprobs.chosen.logprob == pytest.approx(float(logits_BV.log_softmax(-1)[0, 17]), abs=1e-5)
        assert forced.logprobs.top[0].token_id == best


def test_what_raises_behind_a_change_leaves_the_logits_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are drawn again then, each on its own."""

    def broken(*_: object) -> None:
        raise LookupError("out of luck")

    monkeypatch.setattr(TokenCounts, "update", broken)
    logits_BV = torch.randn(2, 20, generator=torch.manual_seed(1))
    before_BV = logits_BV.clone()
    biased = SampleRow(SamplingParams(max_tokens=9, logit_bias={3: 5.0}), [1, 2], 2)
    penalized = SampleRow(SamplingParams(max_tokens=9, repetition_penalty=2.0), [1, 2], 2)
    with pytest.raises(LookupError), adjusted(logits_BV, [biased, penalized]):
        pass
    assert torch.equal(logits_BV, before_BV)

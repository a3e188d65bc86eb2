"""What a grammar rules out is never drawn, however a row is drawn, and rows without one do not notice."""

import numpy as np
import pytest
import torch

from router_service.engine.sampling.rows import SampleRow
from router_service.engine.sampling.sampler import sample
from router_service.protocol.messages import SamplingParams, Structured
from router_service.structured.grammars import Grammars
from router_service.structured.matcher import Matcher
from tests.support.structured import ENDS, bundled_tokenizer

SIZE = 3072
WAYS: list[dict[str, float]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 50.0, "top_k": 2000},
    {"temperature": 1.5, "top_p": 0.999, "min_p": 0.0},
    {"temperature": 2.0, "top_k": 1500, "top_p": 0.99, "min_p": 1e-9},
    {"temperature": 1.0, "repetition_penalty": 1e-6, "frequency_penalty": 2.0},
]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(bundled_tokenizer, SIZE, ENDS)


def matcher_of(grammars: Grammars, allowed: list[int]) -> Matcher:
    matcher = grammars.open(Structured("regex", "a"))
    bits = np.zeros(8 * matcher.mask_bytes, dtype=np.bool_)
    bits[allowed] = True
    matcher.allowed = np.packbits(bits, bitorder="little")
    return matcher


def row(seed: int, matcher: Matcher | None, **params: object) -> SampleRow:
    chosen = SamplingParams(**{"max_tokens": 100, "seed": seed, "temperature": 1.0} | params)  # type: ignore[arg-type]
    return SampleRow(chosen, [5, 6, 7, 6], 2, matcher)


@pytest.mark.parametrize("params", WAYS, ids=str)
@pytest.mark.parametrize("allowed", [[3071], [0, 6, 7, 100], list(range(1, 3072, 2))], ids=len)
def test_only_allowed_tokens_are_drawn(grammars: Grammars, params: dict[str, float], allowed: list[int]) -> None:
    logits_BV = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(1)) * 3
    before_BV = logits_BV.clone()
    rows = [row(seed, matcher_of(grammars, allowed), **params) for seed in range(64)]
    drawn = [one.token for one in sample(logits_BV, rows, ENDS)]
    assert set(drawn) <= set(allowed)
    assert torch.equal(logits_BV, before_BV)
    if len(allowed) > 1 and params["temperature"]:
        assert len(set(drawn)) > 1


def test_rows_without_a_grammar_do_not_notice(grammars: Grammars) -> None:
    logits_BV = torch.randn(12, SIZE, generator=torch.Generator().manual_seed(2))
    free = [row(number, None, **params) for number, params in enumerate(WAYS * 2)]
    alone = [one.token for one in sample(logits_BV, free, ENDS)]
    mixed = [row(n, matcher_of(grammars, [9]) if n % 2 else None, **params) for n, params in enumerate(WAYS * 2)]
    drawn = [one.token for one in sample(logits_BV, mixed, ENDS)]
    assert drawn == [9 if number % 2 else alone[number] for number in range(12)]


def test_all_tokens_allowed_are_as_without_a_grammar(grammars: Grammars) -> None:
    logits_BV = torch.randn(12, SIZE, generator=torch.Generator().manual_seed(3))
    every = list(range(SIZE))
    bound = [row(number, matcher_of(grammars, every), **params) for number, params in enumerate(WAYS * 2)]
    free = [row(number, None, **params) for number, params in enumerate(WAYS * 2)]
    assert sample(logits_BV, bound, ENDS) == sample(logits_BV, free, ENDS)


def test_what_min_tokens_rules_out_comes_only_where_nothing_else_may(grammars: Grammars) -> None:
    logits_BV = torch.zeros(2, SIZE)
    logits_BV[:, 2] = 10.0
    rows = [row(1, matcher_of(grammars, allowed), min_tokens=50, temperature=0.0) for allowed in ([0, 2], [0, 2, 44])]
    assert [one.token for one in sample(logits_BV, rows, ENDS)] == [2, 44]

"""The measure of specialization on distributions whose answer is known, and the comparison that the page asks for."""

import asyncio

import numpy as np
import pytest

from router_service.front.page.domains import compare
from router_service.front.page.specialization import block_counts, normalized_information, specialization
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser, browse
from tests.unit.front.page.routed import routed

EXPERTS, LAYERS, TOKENS = 8, 3, 320


def ids_of(domain: int, rule: str, draw: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    """Two experts for each of 320 tokens in 3 layers [T, L, K]."""
    shape = (TOKENS, LAYERS, 2)
    if rule == "disjoint":
        return draw.integers(2 * domain, 2 * domain + 2, shape)
    if rule == "identical":
        return draw.integers(0, EXPERTS, shape)
    if rule == "bursts":  # neighbours alike, domains not: what tells blocks from tokens
        return np.repeat(draw.integers(0, EXPERTS, (TOKENS // 16, LAYERS, 2)), 16, axis=0)
    ids = draw.integers(0, EXPERTS, shape)
    ids[:, 1] = draw.integers(2 * domain, 2 * domain + 2, (TOKENS, 2))
    return ids


def judge(rule: str, seed: int = 0) -> dict:  # type: ignore[type-arg]
    draw = np.random.default_rng(seed)
    return compare(list("abcd"), [0, 2, 5], [ids_of(domain, rule, draw) for domain in range(4)], EXPERTS)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[5, 5], [5, 5]], 0.0),
        ([[4, 0], [0, 4]], 1.0),
        ([[4, 4, 0, 0], [0, 0, 4, 4]], 1.0),
        ([[9, 0], [0, 0]], 0.0),
        ([[0, 0], [0, 0]], 0.0),
        # H(D) = ln 2, I = ln 2 - H(1/4) with H(1/4) = 0.5623.
        ([[3, 1], [1, 3]], 1 - 0.562335 / np.log(2)),
    ],
)
def test_normalized_information(table: list[list[int]], expected: float) -> None:
    assert normalized_information(np.array(table)) == pytest.approx(expected, abs=1e-5)


def test_disjoint_domains_are_told_apart_in_full() -> None:
    result = judge("disjoint")
    assert result["any"]
    for layer in result["layers"]:
        assert layer["nmi"] == pytest.approx(1.0, abs=1e-9)
        assert layer["excess"] == pytest.approx(1.0, abs=1e-9)
        assert (layer["beyond_chance"], layer["p"] < 0.01) == (True, True)


@pytest.mark.parametrize("rule", ["identical", "bursts"])
def test_identical_domains_show_nothing_beyond_chance(rule: str) -> None:
    found = [judge(rule, seed) for seed in range(20)]
    # At 5 % one of twenty may be taken for something by chance; three would be another thing.
    assert sum(result["any"] for result in found) <= 3
    excess = [layer["excess"] for result in found for layer in result["layers"]]
    assert np.mean(excess) == pytest.approx(0.0, abs=0.02)
    if rule == "bursts":
        assert np.mean([layer["chance"] for result in found for layer in result["layers"]]) > 0.05


def test_the_layer_that_specializes_is_found() -> None:
    result = judge("one layer")
    assert [layer["beyond_chance"] for layer in result["layers"]] == [False, True, False]
    assert [layer["layer"] for layer in result["layers"]] == [0, 2, 5]


def test_shares_are_each_domains_own() -> None:
    result = judge("disjoint")
    assert [layer["layer"] for layer in result["layers"]] == [0, 2, 5]
    for layer in result["layers"]:
        for domain, shares in enumerate(layer["shares"]):
            assert sum(shares) == pytest.approx(1.0, abs=1e-3)
            assert {expert for expert, share in enumerate(shares) if share} == {2 * domain, 2 * domain + 1}


def test_blocks_hold_neighbours() -> None:
    ids_TLK = np.zeros((40, 2, 1), dtype=np.int64)
    ids_TLK[16:32, 1] = 3
    counts_LBE = block_counts(ids_TLK, 4)
    assert counts_LBE.shape == (2, 2, 4)
    assert counts_LBE[1].tolist() == [[16, 0, 0, 0], [0, 0, 0, 16]]
    assert counts_LBE[0].tolist() == [[16, 0, 0, 0]] * 2


def test_the_same_counts_give_the_same_figures() -> None:
    counts_LBE = np.random.default_rng(1).integers(0, 9, (2, 12, 5))
    one, two = (specialization(counts_LBE, [0] * 6 + [1] * 6) for _ in range(2))
    assert one.p_L.tolist() == two.p_L.tolist()


async def test_the_page_compares(world: World) -> None:
    router, browser = await browse(world, script=routed)
    domains = [{"name": "a", "text": "the quick fox " * 20}, {"name": "b", "text": "hello world, " * 20}]
    async with browser, browser.post("/api/domains", {"domains": domains}) as response:
        result = await response.json()
    assert [domain["name"] for domain in result["domains"]] == ["a", "b"]
    assert (result["any"], result["layers"][0]["layer"]) == (False, 1)
    assert result["layers"][0]["shares"] == [[0, 0, 0, 0.5, 0, 0.5, 0, 0]] * 2
    assert [(submit.sampling.max_tokens, submit.return_scores) for submit in router.submits] == [(1, False)] * 2


@pytest.mark.parametrize(
    ("domains", "words"),
    [
        ([("a", "text " * 50)], ["domains", "2 to 8", "got 1"]),
        ([("a", "text " * 50), ("a", "text " * 50)], ["same name"]),
        ([("a", "text " * 50), (" ", "text " * 50)], ["domains[1].name"]),
        ([("a", ""), ("b", "text")], ["domains[0].text", "has 0"]),
        ([("a", "hello " * 90), ("b", "short")], ["domains[1].text", "at least 32", "longer"]),
        ([("a", "x" * 8000), ("b", "text")], ["domains[0].text", "at most"]),
    ],
)
async def test_bad_domains_are_named(world: World, domains: list[tuple[str, str]], words: list[str]) -> None:
    _, browser = await browse(world, script=routed)
    body = {"domains": [{"name": name, "text": text} for name, text in domains]}
    async with browser:
        status, error = await browser.refused("/api/domains", body)
    assert (status, [word for word in words if word not in error]) == (400, [])


async def test_one_comparison_at_a_time(world: World) -> None:
    router, browser = await browse(world, script=routed, stall_after_steps=0)
    body = {"domains": [{"name": "a", "text": "hello " * 90}, {"name": "b", "text": "fox " * 90}]}
    async with browser:
        first = asyncio.create_task(_status(browser, body))
        await until(lambda: bool(router.running))
        status, error = await browser.refused("/api/domains", body)
        assert (status, "another comparison" in error) == (429, True)
        router.stall_after_steps = None
        assert await first == 200


async def _status(browser: Browser, body: object) -> int:
    async with browser.post("/api/domains", body) as response:
        return int(response.status)

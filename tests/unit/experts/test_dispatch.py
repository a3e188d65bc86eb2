"""Grouping, dispatch and combine against the dense sum over experts, for any routing and any placement."""

from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from experts.division.grouping import group_by_block
from experts.placement import LayerPlacement, Placement, even_placement, placement_of
from experts.pool import Combined, ExpertPool
from experts.routing import LOST, Routing
from experts.shard.local import LocalTransport
from experts.shard.shard import ExpertShard
from experts.transport.base import Event, Sent, ShardUnavailable
from experts.transport.call import ExpertCall
from kernels import select

HIDDEN, FFN, MOST = 8, 6, 9
CPU = torch.device("cpu")


@cache
def matrices() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(MOST, 2 * FFN, HIDDEN, generator=random), torch.randn(MOST, HIDDEN, FFN, generator=random)


def shards(placement: Placement, backend: str, dtype: torch.dtype = torch.float32) -> dict[int, ExpertShard]:
    ops, (gate_up, down) = select.ops(backend, CPU), matrices()
    made = {}
    for index in range(placement.shards):
        if held := placement.held_by(index):
            weights = ops.prepare_weights(gate_up[list(held)].to(dtype), down[list(held)].to(dtype))
            made[index] = ExpertShard(index, {5: held}, {5: weights}, ops, CPU, 0, 0.0)
    return made


def dense(x_TD: Tensor, routing: Routing) -> Tensor:
    """Expert by expert, in float64, with no grouping."""
    gate_up, down = (w.double() for w in matrices())
    y_TD = torch.zeros(x_TD.shape, dtype=torch.float64)
    for token, (ids, weights) in enumerate(zip(routing.expert_ids_TK, routing.weights_TK, strict=True)):
        for expert, weight in zip(ids, weights, strict=True):
            if expert != LOST:
                gate, up = (gate_up[expert] @ x_TD[token].double()).chunk(2)
                y_TD[token] += float(weight) * (down[expert] @ (torch.nn.functional.silu(gate) * up))
    return y_TD


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Any experts on any shards, one or more each, in any order."""
    shards = draw(st.integers(1, 5))
    copies = st.lists(st.integers(0, shards - 1), min_size=1, max_size=3, unique=True).map(tuple)
    holders = draw(st.lists(copies, min_size=1, max_size=MOST))
    return Placement(shards, LayerPlacement(tuple(holders)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Placement, Routing, Tensor]:
    """Up to 40 tokens; experts may repeat in a row, rows may be lost, all may go to one expert."""
    placement, tokens = draw(placements()), draw(st.integers(0, 40))
    top_k, seed = draw(st.integers(1, placement.experts)), draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["distinct", "any", "one"]))
    random = np.random.default_rng(seed)
    if kind == "distinct":
        ids = random.random((tokens, placement.experts)).argsort(axis=1)[:, :top_k]
    else:
        ids = random.integers(0, placement.experts if kind == "any" else 1, (tokens, top_k))
    ids[random.random(tokens) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = LOST
    routing = Routing(ids.astype(np.int64), random.random((tokens, top_k), dtype=np.float32))
    return placement, routing, torch.from_numpy(random.standard_normal((tokens, HIDDEN), dtype=np.float32))


def test_keys_to_sort_by_put_a_lost_expert_past_all_shards_in_the_narrowest_type() -> None:
    keys_E = placement_of(((2, 0), (1,))).everywhere.sort_key_of_E
    assert keys_E[[0, 1, 2, LOST]].tolist() == [0, 2, 1, 3]
    assert (keys_E.dtype, even_placement(300, 2).everywhere.sort_key_of_E.dtype) == (np.uint8, np.uint16)


class Recording(LocalTransport):
    """Keeps the questions; shards in `broken` do not answer, those in `away` cannot be asked."""

    def __init__(
        self, members: dict[int, ExpertShard], broken: frozenset[int] = frozenset(), away: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(members)
        self.calls: list[tuple[int, ExpertCall]] = []
        self.open: list[Sent] = []
        self.broken = broken
        self.away = away

    def available(self, shard: int) -> bool:
        """Not those that are away."""
        return shard not in self.away

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        if shard in self.away:
            raise ShardUnavailable(shard, "eof", f"shard {shard} is away")
        self.calls.append((shard, call))
        self.open.append(super().send(shard, call, lane))
        return self.open[-1]

    def receive(self, until_s: float) -> Event | None:  # noqa: ARG002 (cannot be late)
        """The last first, so that the order of arrival differs from that of the shards."""
        last = self.open.pop()
        if last.shard in self.broken:
            self.away |= {last.shard}
            return ShardUnavailable(last.shard, "timeout", f"shard {last.shard} is silent", last.sequence)
        return self.compute(last.sequence)


def run(transport: Recording, placement: Placement, routing: Routing, x_TD: Tensor) -> Combined:
    pool = ExpertPool(transport, placement, 1.0)
    return pool.combine(pool.dispatch(5, x_TD, routing), CPU)


@given(problems(), st.sampled_from(["cpu", "reference"]))
@settings(max_examples=120, deadline=None)
def test_any_routing_equals_the_dense_sum(problem: tuple[Placement, Routing, Tensor], backend: str) -> None:
    placement, routing, x_TD = problem
    transport = Recording(shards(placement, backend))
    combined = run(transport, placement, routing, x_TD)
    assert combined.y_TD.dtype == torch.float32
    torch.testing.assert_close(combined.y_TD.double(), dense(x_TD, routing), rtol=1e-4, atol=1e-4)
    assert (len(combined.lost_tokens), combined.failures) == (0, ())
    check_questions(transport, placement, routing, x_TD, combined.shards_TK())


def check_questions(
    transport: Recording, placement: Placement, routing: Routing, x_TD: Tensor, shard_TK: NDArray[np.int64]
) -> None:
    """Each shard that is chosen for an expert is asked once, with each block's tokens once, and for nothing else."""
    for expert, shard in zip(routing.expert_ids_TK.flat, shard_TK.flat, strict=True):
        assert shard in (placement.everywhere.holders[expert] if expert != LOST else (LOST,))
    wanted = [shard for shard in range(placement.shards) if (shard_TK == shard).any()]
    assert sorted(shard for shard, _ in transport.calls) == wanted
    block_of_E = placement.everywhere.block_of_E
    for shard, call in transport.calls:
        # Each block's tokens once, one block's behind the other's.
        blocks = np.unique(block_of_E[routing.expert_ids_TK[shard_TK == shard]])
        ours_TK = np.where(shard_TK == shard, block_of_E[routing.expert_ids_TK], -1)
        tokens = np.concatenate([np.flatnonzero((ours_TK == block).any(axis=1)) for block in blocks])
        assert torch.equal(call.x_RD, x_TD[torch.from_numpy(tokens)])
        assert (np.diff(call.experts_A) >= 0).all()
        pairs = [(tokens[row], expert) for row, expert in zip(call.rows_A, call.experts_A)]
        here = np.argwhere(shard_TK == shard)
        assert sorted(pairs) == sorted((token, routing.expert_ids_TK[token, k]) for token, k in here)
        assert sorted(call.weights_A) == sorted(routing.weights_TK[token, k] for token, k in here)


@given(problems(), st.data())
@settings(max_examples=60, deadline=None)
def test_tokens_without_a_holder_are_lost_and_no_others(
    problem: tuple[Placement, Routing, Tensor], data: st.DataObject
) -> None:
    placement, routing, x_TD = problem
    numbers = st.frozensets(st.integers(0, placement.shards - 1))
    broken, away = data.draw(numbers), data.draw(numbers)
    combined = run(Recording(shards(placement, "cpu"), broken, away), placement, routing, x_TD)
    gone_E = np.array([set(shards) <= broken | away for shards in placement.everywhere.holders] + [False])
    lost_TK = gone_E[routing.expert_ids_TK]
    lost_T = lost_TK.any(axis=1)
    assert combined.lost_tokens.tolist() == np.flatnonzero(lost_T).tolist()
    holders = {shard for expert in routing.expert_ids_TK[lost_TK] for shard in placement.everywhere.holders[expert]}
    assert {failure.shard for failure in combined.failures} <= holders
    assert bool(combined.failures) == bool(lost_T.any())
    kept_T = torch.from_numpy(~lost_T)
    torch.testing.assert_close(combined.y_TD.double()[kept_T], dense(x_TD, routing)[kept_T], rtol=1e-4, atol=1e-4)


def test_the_sum_does_not_depend_on_the_order_of_arrival() -> None:
    placement, random = even_placement(MOST, 4), np.random.default_rng(3)
    ids = random.random((33, MOST)).argsort(axis=1)[:, :5]
    routing = Routing(ids, random.random((33, 5), dtype=np.float32))
    x_TD = torch.randn(33, HIDDEN)
    members = shards(placement, "cpu")
    forwards = ExpertPool(LocalTransport(members), placement, 1.0)
    first = forwards.combine(forwards.dispatch(5, x_TD, routing), CPU)
    assert torch.equal(first.y_TD, run(Recording(members), placement, routing, x_TD).y_TD)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_partial_sums_are_float32(dtype: torch.dtype) -> None:
    """The weighted sum over experts adds no rounding of the narrow format."""
    placement, x_TD = even_placement(MOST, 3), torch.randn(7, HIDDEN).to(dtype)
    ids = np.tile(np.arange(MOST), (7, 1))
    routing = Routing(ids, np.full((7, MOST), 1 / MOST, dtype=np.float32))
    combined = run(Recording(shards(placement, "cpu", dtype)), placement, routing, x_TD)
    assert combined.y_TD.dtype == torch.float32
    assert not torch.equal(combined.y_TD, combined.y_TD.to(dtype).float())


@pytest.mark.parametrize(
    "change",
    [
        {"layer": 4},
        {"experts_A": np.array([9], np.int32)},
        {"experts_A": np.array([-1], np.int32)},
        {"x_RD": torch.ones(1, 3)},
        {"x_RD": torch.ones(1, 8).half()},
    ],
)
def test_a_shard_refuses_what_it_does_not_hold(change: dict[str, object]) -> None:
    shard = shards(even_placement(MOST, 2), "cpu")[0]
    call = ExpertCall(5, torch.ones(1, 8), np.zeros(1, np.int32), np.zeros(1, np.int32), np.ones(1, np.float32))
    shard.compute(call)
    with pytest.raises(ValueError, match="shard 0 "):
        shard.compute(replace(call, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("holders", [((0,), ()), ((0, 0),), ((-1,),), ()])
def test_a_placement_gives_each_expert_to_different_shards(holders: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"must be held by one or more different shards|at least one expert"):
        LayerPlacement(holders)


def test_a_placement_names_shards_that_there_are_and_layers_of_one_size() -> None:
    two = LayerPlacement(((0,), (2,)))
    with pytest.raises(ValueError, match="names shard 2, there are 2"):
        Placement(2, two)
    with pytest.raises(ValueError, match="all layers have 2 experts"):
        Placement(3, two, {4: LayerPlacement(((0,),))})


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 8), st.randoms())
def test_an_even_placement_has_so_many_copies_on_different_shards(
    experts: int, shards: int, copies: int, random: Random
) -> None:
    shards = min(shards, experts)
    ring = list(range(shards))
    random.shuffle(ring)
    if copies > shards:
        with pytest.raises(ValueError, match=f"copies is {copies}, it must be from 1 to {shards}"):
            even_placement(experts, shards, copies)
        return
    placement = even_placement(experts, shards, copies, ring)
    assert {len(holders) for holders in placement.everywhere.holders} == {copies} == {placement.copies}
    homes = np.bincount(placement.everywhere.home_of_E, minlength=shards)
    assert homes.max() - homes.min() <= 1
    assert sum(len(placement.held_by(shard)) for shard in range(shards)) == experts * copies
    with pytest.raises(ValueError, match=f"from 1 to {experts}"):
        even_placement(experts, experts + 1)


def test_no_tokens_make_no_groups() -> None:
    empty = Routing(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32))
    assert group_by_block(empty, even_placement(4, 2).everywhere) == []

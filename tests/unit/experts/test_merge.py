"""Merging calls: which are computed together, and that no sum changes by it. For any calls in any order."""

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experts.merging import merged, taken_apart
from experts.shard.waiting_calls import MOST_OVERTAKEN, WaitingCall, WaitingCalls
from experts.transport.call import ExpertCall
from kernels import select
from tests.unit.experts.merge_fakes import HIDDEN, SLOTS, call_of, sums_of, waiting

FFN = 6
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=6))
def test_merged_sums_are_those_of_each_call_alone(shapes: list[tuple[int, int]]) -> None:
    """Bit for bit where rows are computed one by one; a merged call is itself a call as routers send it."""
    calls = [call_of(2, rows, seed) for rows, seed in shapes]
    together = merged(calls)
    assert (np.diff(together.experts_A) >= 0).all()
    assert (together.rows_A.dtype, together.experts_A.dtype) == (np.int32, np.int32)
    for call, part_RD in zip(calls, taken_apart(sums_of(together), calls), strict=True):
        assert torch.equal(part_RD, sums_of(call))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_merged_sums_of_a_backend_are_within_the_dtypes_tolerance(backend: str, dtype: torch.dtype) -> None:
    """A product may accumulate in another order where it has more rows."""
    ops, random = select.ops(backend, "cpu"), torch.Generator().manual_seed(0)
    gate_up = torch.randn(SLOTS, 2 * FFN, HIDDEN, generator=random).to(dtype)
    down = torch.randn(SLOTS, HIDDEN, FFN, generator=random).to(dtype)
    weights = ops.prepare_weights(gate_up, down)
    calls = [call_of(0, rows, rows) for rows in (1, 8, 3, 20)]

    def computed(call: ExpertCall) -> torch.Tensor:
        return ops.expert_ffn(
            call.x_RD.to(dtype),
            weights,
            torch.from_numpy(call.rows_A.astype(np.int64)),
            torch.from_numpy(call.experts_A.astype(np.int64)),
            torch.from_numpy(call.weights_A),
        )

    for call, part_RD in zip(calls, taken_apart(computed(merged(calls)), calls), strict=True):
        torch.testing.assert_close(part_RD, computed(call), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# An arrival (connection, layer, rows), or None: the computing thread takes what it computes next.
Steps = list[tuple[int, int, int] | None]
STEPS: st.SearchStrategy[Steps] = st.lists(
    st.none() | st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 5)), max_size=60
)


LATE = st.none() | st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 5))


@given(STEPS, st.integers(1, 12), st.booleans(), LATE)
def test_any_arrivals_are_taken_once_in_order_and_none_starves(
    steps: Steps, most_rows: int, round_: bool, late: tuple[int, int, int] | None
) -> None:
    added = 0
    queue, seen = WaitingCalls(most_rows, range(3) if round_ else ()), list[WaitingCall]()
    came: deque[WaitingCall] = deque()  # what waits, the oldest first
    for step in [*steps, *[None] * (len(steps) + 6)]:
        if step is not None:
            connection, layer, rows = step
            came.append(waiting(call_of(layer, rows), connection))
            queue.add(came[-1])
            continue
        leads = queue.leader
        assert (leads is None) == (not came)
        if leads is None:
            continue
        if late and added < 5:  # another call comes between the choice and the taking
            came.append(waiting(call_of(*late[1:]), late[0]))
            queue.add(came[-1])
            added += 1
        batch = queue.take(leads)
        assert leads in batch
        assert round_ or batch[0] is came[0], "the oldest is among those taken, so none waits for a later one"
        assert all(one.overtaken <= MOST_OVERTAKEN + 3 for one in oldest_of_connections(came)), "four connections"
        assert {one.call.layer for one in batch} == {batch[0].call.layer}
        assert len(batch) == 1 or sum(len(one.call.x_RD) for one in batch) <= most_rows
        check_order(batch, came)
        check_greedy(batch, came, most_rows)
        for one in batch:
            came.remove(one)
        seen += batch
        assert round_ or queue.leader is (came[0] if came else None)
    assert len(seen) == len(set(map(id, seen))) == sum(step is not None for step in steps) + added


def oldest_of_connections(came: deque[WaitingCall]) -> list[WaitingCall]:
    return list({one.connection: one for one in reversed(came)}.values())


def check_order(batch: list[WaitingCall], came: deque[WaitingCall]) -> None:
    """No call is taken before an older one of its connection, nor within a layer before any older one that could be."""
    assert batch == [one for one in came if one in batch]
    for one in batch:
        older = [other for other in list(came)[: came.index(one)] if other.connection == one.connection]
        assert all(other in batch for other in older)


def check_greedy(batch: list[WaitingCall], came: deque[WaitingCall], most_rows: int) -> None:
    """Every call that may be computed with the others is: the first that is left had no room, or had to wait."""
    rows = sum(len(one.call.x_RD) for one in batch)
    for index, one in enumerate(came):
        if one not in batch and one.call.layer == batch[0].call.layer:
            blocked = any(o.connection == one.connection and o not in batch for o in list(came)[:index])
            assert blocked or rows + len(one.call.x_RD) > most_rows
            if not blocked:
                break


def take(queue: WaitingCalls) -> list[WaitingCall]:
    return [] if (leader := queue.leader) is None else queue.take(leader)


def test_a_call_over_the_limit_is_computed_by_itself() -> None:
    queue = WaitingCalls(4)
    for connection, rows in enumerate((9, 1, 3, 1)):
        queue.add(waiting(call_of(0, rows), connection))
    assert [[len(one.call.x_RD) for one in take(queue)] for _ in range(4)] == [[9], [1, 3], [1], []]


@dataclass
class Walker:
    """A router on its way through the layers; it asks for the next one some time after it has been answered."""

    connection: int
    place: int
    asks_at: float


def walk(queue: WaitingCalls, walkers: list[Walker], layers: int, computations: int, pause: float) -> list[int]:
    """Let routers walk round the layers past one shard that computes for one unit of time; the sizes of its batches.

    A router's own work takes about `pause`: exactly alike, they would keep whatever distance they have.
    """
    now, sizes, chance = 0.0, [], random.Random(1)
    asked: dict[int, Walker] = {}
    while len(sizes) < computations:
        for walker in sorted(walkers, key=lambda one: one.asks_at):
            if walker.asks_at <= now and walker.connection not in asked:
                queue.add(waiting(call_of(walker.place, 1), walker.connection))
                asked[walker.connection] = walker
        if not (batch := take(queue)):
            now = min(walker.asks_at for walker in walkers)
            continue
        now += 1.0
        sizes.append(len(batch))
        for one in batch:
            walker = asked.pop(int(str(one.connection)))
            walker.place, walker.asks_at = (walker.place + 1) % layers, now + pause * chance.uniform(0.9, 1.1)
    return sizes


@pytest.mark.parametrize("starts", [(0, 5, 11, 14), (3, 4, 9, 1), (2, 3, 10, 7)], ids=str)
def test_routers_that_are_apart_meet_and_stay_together(starts: tuple[int, ...]) -> None:
    """Four routers that keep a shard busy: the oldest first, and most calls stay alone for good."""

    def computations_per_call(layers: Iterable[int]) -> float:
        walkers = [Walker(n, start, 0.1 * n) for n, start in enumerate(starts)]
        sizes = walk(WaitingCalls(100, layers), walkers, 16, 900, pause=1.0)
        return 200 / sum(sizes[-200:])

    assert computations_per_call(range(16)) <= 0.76
    assert computations_per_call(()) >= 0.99

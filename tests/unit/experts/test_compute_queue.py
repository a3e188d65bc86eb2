"""Threads of several routers at one shard: what waits together is computed together, and nobody waits for nothing."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.shard.computation import own_ns
from experts.shard.compute_queue import ComputeQueue
from experts.transport.call import ExpertCall, Partial
from experts.transport.inbox import Closed
from tests.support.mesh import until
from tests.unit.experts.merge_fakes import WAIT_S, HeldWork, call_of, sums_of

Ask = Callable[..., Future[Partial]]


class Shard:
    """A queue whose computations the test lets go, and routers that ask it, a thread for each call."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.work = HeldWork()
        self.queue = ComputeQueue(self.work)
        self._threads = threads

    def ask(self, call: ExpertCall, connection: int = 0, gone: bool = False) -> Future[Partial]:
        """Ask, and return when the call waits or is being computed."""
        before = self.queue.waiting + len(self.work.calls)
        asked = self._threads.submit(self.queue.compute, call, before, connection, lambda: gone)
        until(lambda: self.queue.waiting + len(self.work.calls) > before, "the call has come", WAIT_S)
        return asked


@pytest.fixture
def shard() -> Iterator[Shard]:
    with ThreadPoolExecutor(16) as threads:
        shard = Shard(threads)
        yield shard
        shard.work.let_go(100)  # or a test that failed would never end


def check(asked: Future[Partial], call: ExpertCall) -> Partial:
    """The call's own sums."""
    partial = asked.result(WAIT_S)
    assert torch.equal(partial.y_ND, sums_of(call))
    return partial


def test_a_lone_call_is_computed_at_once_by_its_own_thread() -> None:
    threads = list[int]()

    def work(call: ExpertCall) -> torch.Tensor:
        threads.append(threading.get_ident())
        return sums_of(call)

    queue, call = ComputeQueue(work), call_of(0, 3)
    partial = queue.compute(call, 0, 0, lambda: False)
    assert torch.equal(partial.y_ND, sums_of(call))
    assert threads == [threading.get_ident()]
    assert (partial.shared_ns, queue.computation.since_ns, queue.counts.merged_calls) == (0, None, 0)


def test_calls_that_wait_together_are_computed_together_the_oldest_ones_layer_first(shard: Shard) -> None:
    calls = [call_of(layer, 2 + n, n) for n, layer in enumerate([7, 1, 0, 1, 0, 1])]
    asked = [shard.ask(call, connection) for connection, call in enumerate(calls)]
    assert (len(shard.work.calls), shard.queue.waiting) == (1, 5)
    shard.work.let_go(3)
    partials = [check(*pair) for pair in zip(asked, calls, strict=True)]
    assert [(call.layer, len(call.x_RD)) for call in shard.work.calls] == [(7, 2), (1, 3 + 5 + 7), (0, 4 + 6)]
    counts = shard.queue.counts
    assert (counts.calls, counts.computations, counts.merged_calls) == (6, 3, 5)
    assert counts.assignments == sum(len(call.rows_A) for call in calls)
    assert [partial.stamps.received for partial in partials] == [0, 1, 2, 3, 4, 5]
    assert len({(partial.stamps.started, partial.stamps.sent) for partial in partials}) == 3


def test_the_shares_of_a_computation_add_up_to_it(shard: Shard) -> None:
    calls = [call_of(0, rows, rows) for rows in (1, 4, 9, 2)]
    asked = [shard.ask(call, connection) for connection, call in enumerate(calls)]
    shard.work.let_go(2)
    alone, *together = [one.result(WAIT_S) for one in asked]
    assert alone.shared_ns == 0
    (whole_ns,) = {one.stamps.sent - one.stamps.started for one in together}
    shares = [whole_ns - one.shared_ns for one in together]
    assert sum(shares) == whole_ns
    assert shares == own_ns(calls[1:], whole_ns)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 10**12))
def test_a_share_is_by_assignments(rows: list[int], compute_ns: int) -> None:
    calls = [call_of(0, size, size) for size in rows]
    shares, total = own_ns(calls, compute_ns), sum(len(call.rows_A) for call in calls)
    assert total == 0 or sum(shares) == compute_ns
    for call, share in zip(calls, shares, strict=True):
        part = len(call.rows_A) / total if total else 1 / len(calls)
        assert abs(share - compute_ns * part) <= 1 + compute_ns / 2**40


def test_a_fault_is_only_its_own_calls(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together the calls cannot be computed, so each is by itself."""
    good, bad = [call_of(0, rows, rows) for rows in (2, 3, 4)], call_of(0, 5)
    held = shard.ask(good[0])
    asked = [shard.ask(call, n) for n, call in enumerate([good[1], bad, good[2]], 1)]

    def sums(call: ExpertCall) -> torch.Tensor:
        if any(torch.equal(row, bad.x_RD[0]) for row in call.x_RD):
            raise MemoryError("too much")
        return sums_of(call)

    monkeypatch.setattr("tests.unit.experts.merge_fakes.sums_of", sums)
    shard.work.let_go(5)
    check(held, good[0])
    with pytest.raises(MemoryError, match="too much"):
        asked[1].result(WAIT_S)
    for one, call in ((asked[0], good[1]), (asked[2], good[2])):
        assert check(one, call).shared_ns == 0
    assert [len(call.x_RD) for call in shard.work.calls] == [2, 12, 3, 5, 4]
    assert (shard.queue.counts.calls, shard.queue.counts.merged_calls) == (3, 0)


@pytest.mark.parametrize("away", [{1}, {2}, {1, 2, 3}])
def test_a_call_whose_router_has_gone_is_dropped_before_it_is_computed(shard: Shard, away: set[int]) -> None:
    calls = [call_of(0, rows, rows) for rows in (1, 2, 3, 4)]
    asked = [shard.ask(call, n, gone=n in away) for n, call in enumerate(calls)]
    shard.work.let_go(2)
    for n, (one, call) in enumerate(zip(asked, calls, strict=True)):
        if n in away:
            with pytest.raises(Closed):
                one.result(WAIT_S)
        else:
            check(one, call)
    rows = [len(call.x_RD) for call in shard.work.calls]
    assert sum(rows) == sum(n + 1 for n in range(4) if n not in away)
    shard.work.let_go()
    check(shard.ask(calls[1]), calls[1])  # the turn was handed on all the same


def run_routers(layers: int, routers: int, rows: int, arrive: Callable[[Shard], object]) -> int:
    """Each router asks layer after layer; the computations that it took. `arrive` is called once in each of them."""
    with ThreadPoolExecutor(routers + 1) as threads:
        shard = Shard(threads)

        def router(connection: int) -> None:
            for layer in range(layers):
                call = call_of(layer, rows, connection)
                partial = shard.queue.compute(call, 0, connection, lambda: False)
                assert torch.equal(partial.y_ND, sums_of(call))

        running = [threads.submit(router, connection) for connection in range(routers)]
        computed = 0
        more = lambda: len(shard.work.calls) > computed  # noqa: E731
        until(lambda: more() or all(one.done() for one in running), "a call has come")
        while more():
            arrive(shard)
            computed += 1
            shard.work.let_go()
            until(lambda: more() or all(one.done() for one in running), "the next call has come")
        for one in running:
            one.result(WAIT_S)
    return shard.queue.counts.computations


def test_four_routers_cost_two_computations_a_layer_at_worst() -> None:
    """Each computation lasts until all others wait. Who comes first is computed at once, the other three together.

    No call is held back so that it meets others: those that were computed together then ask together again.
    """
    layers = 8

    def all_wait(shard: Shard) -> None:
        rows = len(shard.work.calls[-1].x_RD)
        # Of the last layers some routers have ended, and nobody waits.
        left = shard.queue.counts.calls + rows // 8
        until(lambda: shard.queue.waiting == min(4 - rows // 8, 4 * layers - left), "the others wait")

    alone = run_routers(layers, 1, 32, lambda _: None)
    assert alone == layers
    assert run_routers(layers, 4, 8, all_wait) <= 2 * alone


# For each connection the layers of its calls, one after the other, and how many wait when a computation ends.
@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=5), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_every_call_of_any_routers_is_answered_once_with_its_own_sums(routers: list[list[tuple[int, int]]]) -> None:
    """Whatever the threads' order: each connection's answers come in its calls' order, and every call is computed."""
    computed, ended = list[ExpertCall](), list[tuple[int, int]]()

    def work(call: ExpertCall) -> torch.Tensor:
        computed.append(call)
        return sums_of(call)

    queue = ComputeQueue(work, most_rows=6)

    def router(connection: int, shapes: list[tuple[int, int]]) -> None:
        for number, (layer, rows) in enumerate(shapes):
            call = call_of(layer, rows, 10 * connection + number)
            partial = queue.compute(call, 0, connection, lambda: False)
            assert torch.equal(partial.y_ND, sums_of(call))
            ended.append((connection, number))

    with ThreadPoolExecutor(4) as threads:
        for asked in [threads.submit(router, *one) for one in enumerate(routers)]:
            asked.result(WAIT_S)
    assert sorted(ended) == [(n, number) for n, shapes in enumerate(routers) for number in range(len(shapes))]
    assert all(a[1] < b[1] for a, b in pairwise(sorted(ended, key=lambda one: one[0])) if a[0] == b[0])
    assert sum(len(call.x_RD) for call in computed) == sum(rows for shapes in routers for _, rows in shapes)
    assert queue.counts.calls == len(ended)
    assert queue.waiting == 0


def test_many_routers_that_ask_without_a_pause_all_get_their_own_sums() -> None:
    """Calls come at any time between the choice of who is next and its turn; nobody waits for ever."""
    layers = range(9)
    queue = ComputeQueue(sums_of, layers=layers)
    calls = [call_of(layer, 2, layer) for layer in layers]

    def walk(router: int) -> list[Partial]:
        places = [(router * 2 + step) % len(layers) for step in range(300)]
        return [queue.compute(calls[place], 0, router, lambda: False) for place in places]

    with ThreadPoolExecutor(4) as threads:
        for router, asked in enumerate([threads.submit(walk, router) for router in range(4)]):
            for step, partial in enumerate(asked.result(WAIT_S)):
                assert torch.equal(partial.y_ND, sums_of(calls[(router * 2 + step) % len(layers)]))
    assert queue.counts.calls == 1200
    assert queue.waiting == 0

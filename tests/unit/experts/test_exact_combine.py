"""With a row for each (token, expert) a token's bits depend on nothing but its row and its routing.

On a backend that computes each row by itself: the reference.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from experts.merging import merged, taken_apart
from experts.placement import Placement, even_placement
from experts.pool import ExpertPool
from experts.routing import LOST, Routing
from experts.shard.local import LocalTransport
from experts.transport.base import Reply, ShardUnavailable
from experts.transport.call import ExpertCall, Form, Partial, Stamps, pack_call, pack_partial, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.frame import Kind
from experts.transport.socket import SocketTransport
from tests.support.exchange_rig import Rig
from tests.support.mesh import CREDENTIALS, HELLO, NODE, WAIT_S, until
from tests.support.tiny import Tiny
from tests.unit.experts.merge_fakes import HIDDEN as WIDTH
from tests.unit.experts.merge_fakes import call_of
from tests.unit.experts.test_dispatch import CPU, HIDDEN, MOST, Recording, placements, problems, shards

DTYPES = (torch.float32, torch.bfloat16)


def outputs(placement: Placement, routing: Routing, x_TD: Tensor, backend: str = "reference") -> Tensor:
    """y_TD of an exact pool whose shards answer last first."""
    pool = ExpertPool(Recording(shards(placement, backend, x_TD.dtype)), placement, 1.0, exact=True)
    return pool.combine(pool.dispatch(5, x_TD, routing), CPU).y_TD


def in_turn(experts: int, routing: Routing, x_TD: Tensor) -> Tensor:
    """Each token by itself: its experts' rows, one at a time, added in the order in which its routing lists them."""
    (shard,) = shards(even_placement(experts, 1), "reference", x_TD.dtype).values()
    zero, y_TD = np.zeros(1, np.int32), torch.zeros(x_TD.shape)
    for token, (ids, weights) in enumerate(zip(routing.expert_ids_TK, routing.weights_TK, strict=True)):
        for expert, weight in zip(ids, weights, strict=True):
            if expert != LOST:
                slot = np.array([expert], np.int32)
                y_TD[token] += shard.compute(ExpertCall(5, x_TD[token, None], zero, slot, weight[None]))[0]
    return y_TD


@given(problems(), st.data(), st.sampled_from(DTYPES))
@settings(max_examples=60, deadline=None)
def test_bits_depend_on_no_placement(
    problem: tuple[Placement, Routing, Tensor], data: st.DataObject, dtype: torch.dtype
) -> None:
    placement, routing, x_TD = problem
    x_TD = x_TD.to(dtype)
    first = outputs(placement, routing, x_TD)
    assert torch.equal(first, in_turn(placement.experts, routing, x_TD))
    other = data.draw(placements().filter(lambda one: one.experts == placement.experts))
    assert torch.equal(first, outputs(other, routing, x_TD))


@given(problems(), st.data())
@settings(max_examples=40, deadline=None)
def test_bits_depend_on_no_other_token(problem: tuple[Placement, Routing, Tensor], data: st.DataObject) -> None:
    placement, routing, x_TD = problem
    kept = data.draw(st.lists(st.integers(0, len(x_TD) - 1), max_size=9)) if len(x_TD) else []
    part = Routing(routing.expert_ids_TK[kept], routing.weights_TK[kept])
    whole = outputs(placement, routing, x_TD)
    assert torch.equal(whole[kept], outputs(placement, part, x_TD[kept]))


@given(problems())
@settings(max_examples=40, deadline=None)
def test_any_backends_rows_are_near(problem: tuple[Placement, Routing, Tensor]) -> None:
    placement, routing, x_TD = problem
    expected = outputs(placement, routing, x_TD)
    torch.testing.assert_close(outputs(placement, routing, x_TD, "cpu"), expected, rtol=1e-4, atol=1e-4)


def test_sums_do_depend_on_the_blocks() -> None:
    """Or the tests above would prove nothing."""
    random = np.random.default_rng(0)
    ids = random.random((40, MOST)).argsort(axis=1)[:, :5]
    routing, x_TD = Routing(ids, random.random((40, 5), dtype=np.float32)), torch.randn(40, HIDDEN)

    def sums(count: int) -> Tensor:
        placement = even_placement(MOST, count)
        pool = ExpertPool(LocalTransport(shards(placement, "reference")), placement, 1.0)
        return pool.combine(pool.dispatch(5, x_TD, routing), CPU).y_TD

    assert not torch.equal(sums(1), sums(3))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=6))
@settings(deadline=None)
def test_merged_calls_have_the_rows_of_each_alone(shapes: list[tuple[int, int]]) -> None:
    calls = [replace(call_of(5, rows, seed), form=Form.EACH) for rows, seed in shapes]
    wide = [replace(call, x_RD=torch.nn.functional.pad(call.x_RD, (0, HIDDEN - WIDTH))) for call in calls]
    shard = shards(even_placement(MOST, 2), "reference")[0]
    for call, part_AD in zip(wide, taken_apart(shard.compute(merged(wide)), wide), strict=True):
        assert torch.equal(part_AD, shard.compute(call))


@pytest.fixture
def rig(tiny: Callable[..., Tiny]) -> Iterator[Rig]:
    with Rig(tiny("mixtral").plan, 2, exact=True, backend="reference") as rig:
        yield rig


def test_a_call_that_is_sent_again_has_the_same_bits(rig: Rig) -> None:
    """A shard is lost with the call, and its next incarnation is asked once more."""
    random = np.random.default_rng(1)
    routing = Routing(random.random((7, 6)).argsort(axis=1)[:, :3], random.random((7, 3), np.float32))
    x_TD = torch.randn(7, rig.hidden)
    first = rig.pool.combine(rig.pool.dispatch(0, x_TD, routing), CPU)
    with rig.servers.running[1].turn:  # it has the call when it dies
        handle = rig.pool.dispatch(0, x_TD, routing)
        until(lambda: rig.servers.running[1].queue.waiting > 0, "it waits")
        rig.replace(1)
    again = rig.pool.combine(handle, CPU)
    assert (again.failures, again.lost_tokens.tolist()) == ((), [])
    assert torch.equal(first.y_TD, again.y_TD)


def test_bytes_and_rows_are_counted_as_sent(rig: Rig) -> None:
    ids = np.array([[0, 1, 5], [0, 2, 1]])
    handle = rig.pool.dispatch(0, torch.randn(2, rig.hidden), Routing(ids, np.ones(ids.shape, np.float32)))
    trip = rig.pool.combine(handle, CPU).trip
    assert [(call.rows, call.assignments) for call in trip.calls] == [(2, 5), (1, 1)]
    assert [call.combine_bytes for call in trip.calls] == [40 + 64 + 4 * rig.hidden * rows for rows in (5, 1)]


def test_a_router_that_asks_for_sums_is_not_merged_with_one_that_asks_for_rows(rig: Rig) -> None:
    server = rig.servers.running[0]
    places = np.zeros(2, np.int32)
    call = ExpertCall(0, torch.ones(1, rig.hidden), places, np.arange(2, dtype=np.int32), np.ones(2, np.float32))
    with ExitStack() as stack:
        routers = [connect(server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO) for _ in Form]
        for router in routers:
            stack.callback(router.close)
        with server.turn:
            for waiting, (router, form) in enumerate(zip(routers, Form, strict=True)):
                router.send(Kind.EXPERTS, 1, pack_call(replace(call, form=form)))
                until(lambda before=waiting: server.queue.waiting > before, "it waits")
        sums, rows = (answer(router) for router in routers)
    assert (sums.shape, rows.shape) == ((1, rig.hidden), (2, rig.hidden))
    torch.testing.assert_close(sums[0], rows.sum(0))
    assert server.queue.counts.merged_calls == 0


def answer(router: Channel) -> Tensor:
    _, payload = router.receive()
    return unpack_partial(payload).y_ND.clone()


@pytest.mark.parametrize("form", Form)
def test_a_reply_of_another_form_is_refused(form: Form) -> None:
    """Even where it has as many rows as the one that was asked for."""
    ours, theirs = (Channel(sock, 1) for sock in socket.socketpair())
    transport, one = SocketTransport(), np.zeros(1, np.int32)
    transport.offer(0, ours)
    call = ExpertCall(0, torch.zeros(1, 3), one, one, np.ones(1, np.float32), form=Form.EACH)
    sent = transport.send(0, call, 0)
    theirs.receive()
    theirs.send(Kind.PARTIALS, sent.sequence, pack_partial(Partial(torch.ones(1, 3), Stamps(0, 0, 0), form=form)))
    result = transport.receive(time.monotonic() + WAIT_S)
    if form is Form.EACH:
        assert isinstance(result, Reply)
        assert result.partial.y_ND.tolist() == [[1.0, 1.0, 1.0]]
    else:
        assert isinstance(result, ShardUnavailable)
        assert (result.shard, result.reason) == (0, "length")
    transport.close()
    theirs.close()


def test_what_a_failed_call_left_in_the_room_is_not_read() -> None:
    """NaN of a layer before, in the place of an answer that does not come."""
    placement, x_TD = even_placement(MOST, 2), torch.full((3, HIDDEN), torch.nan)
    routing = Routing(np.array([[0, 8], [1, 8], [2, 3]]), np.ones((3, 2), np.float32))
    transport = Recording(shards(placement, "reference"))
    pool = ExpertPool(transport, placement, 1.0, exact=True)
    assert pool.combine(pool.dispatch(5, x_TD, routing), CPU).y_TD.isnan().all()
    transport.broken = frozenset({1})
    combined = pool.combine(pool.dispatch(5, torch.ones(3, HIDDEN), routing), CPU)
    assert combined.lost_tokens.tolist() == [0, 1]
    assert combined.y_TD.isfinite().all()

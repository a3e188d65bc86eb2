"""Routers that share a shard, over sockets: waiting calls become one computation, a fault is only its own router's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch

from experts.shard.server import ExpertServer
from experts.transport.call import ExpertCall, Partial, pack_call, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.frame import Kind
from tests.support.mesh import CREDENTIALS, HELLO, NODE, until
from tests.unit.experts.frame_servers import status_of
from tests.unit.experts.merge_fakes import WAIT_S, HeldShard, call_of, sums_of

ROUTERS, ROWS = 4, 8
FAR = np.int32(50)


class Shared:
    """A shard that computes when it is let go, and `ROUTERS` connected routers."""

    def __init__(self, connections: ExitStack, node: str) -> None:
        self.shard = HeldShard()
        self.server = ExpertServer(
            self.shard,  # type: ignore[arg-type]
            credentials=CREDENTIALS,
            host="127.0.0.1",
            node=NODE,
            replica="r0",
        )
        self.routers = [connect(self.server.endpoint, node, CREDENTIALS, WAIT_S, hello=HELLO) for _ in range(ROUTERS)]
        for router in self.routers:
            connections.callback(router.close)
            router.set_timeouts(WAIT_S)

    def busy(self) -> Channel:
        """Let a further router's call, for another layer, be computed until the shard is let go."""
        other = connect(self.server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO)
        other.set_timeouts(WAIT_S)
        before = len(self.shard.compute.calls)
        other.send(Kind.EXPERTS, 1, pack_call(call_of(8, 1)))
        until(lambda: len(self.shard.compute.calls) > before, "it computes")
        return other

    def send(self, router: int, call: ExpertCall, sequence: int = 1) -> None:
        """Send a call, and return when it waits."""
        before = self.server.queue.waiting
        self.routers[router].send(Kind.EXPERTS, sequence, pack_call(call))
        until(lambda: self.server.queue.waiting > before, "it waits")

    def check(self, router: int, call: ExpertCall, sequence: int = 1) -> Partial:
        """Take a reply: the call's own sums."""
        header, payload = self.routers[router].receive()
        assert (header.kind, header.sequence) == (Kind.PARTIALS, sequence)
        partial = unpack_partial(payload)
        assert torch.equal(partial.y_ND, sums_of(call))
        return partial


@pytest.fixture(params=[NODE, "another node"], ids=["unix", "tcp"])
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    with ExitStack() as connections:
        shared = Shared(connections, request.param)
        yield shared
        shared.shard.compute.let_go(100)
        shared.server.close()


def test_four_routers_that_wait_for_a_layer_cost_as_much_as_one_with_all_rows(shared: Shared) -> None:
    """Layer after layer they are answered together, so they wait together again."""
    layers, counts = 6, shared.server.queue.counts
    for layer in range(layers):
        other, calls = shared.busy(), [call_of(layer, ROWS, n) for n in range(ROUTERS)]
        for router, call in enumerate(calls):
            shared.send(router, call, layer)
        shared.shard.compute.let_go(2)
        partials = [shared.check(router, call, layer) for router, call in enumerate(calls)]
        assert len({(one.stamps.started, one.stamps.sent) for one in partials}) == 1
        assert [one.stamps.received for one in partials] == sorted(one.stamps.received for one in partials)
        other.close()
    computed = [call for call in shared.shard.compute.calls if call.layer != 8]
    assert [(call.layer, len(call.x_RD)) for call in computed] == [(layer, ROUTERS * ROWS) for layer in range(layers)]
    assert (counts.computations, counts.merged_calls) == (2 * layers, ROUTERS * layers)


def test_the_status_counts_what_was_merged(shared: Shared) -> None:
    other, calls = shared.busy(), [call_of(0, ROWS, n) for n in range(3)]
    for router, call in enumerate(calls):
        shared.send(router, call)
    shared.shard.compute.let_go(2)
    for router, call in enumerate(calls):
        shared.check(router, call)
    status = status_of(shared.routers[3])
    assert (status["computations"], status["merged_calls"]) == (2, 3)
    assert status["assignments"] == sum(len(call.rows_A) for call in [*calls, call_of(8, 1)])
    other.close()


Fault = Callable[[ExpertCall], list[bytes]]
FAULTS: dict[str, tuple[Fault, Kind | None]] = {
    "a layer of another shard": (lambda call: packed(replace(call, layer=77)), Kind.MISS),
    "an expert of another shard": (
        lambda call: packed(replace(call, experts_A=call.experts_A + np.int32(50))),
        Kind.MISS,
    ),
    "a frame cut short": (lambda call: packed(call)[:-1], None),
    "a row that is not there": (lambda call: packed(replace(call, rows_A=call.rows_A + FAR)), None),
}


def packed(call: ExpertCall) -> list[bytes]:
    return [bytes(part) for part in pack_call(call)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_call_fails_at_once_and_alone(shared: Shared, fault: str) -> None:
    """It does not even wait for its turn; those that wait beside it are answered as ever."""
    spoilt, kind = FAULTS[fault]
    other, calls = shared.busy(), [call_of(0, ROWS, n) for n in range(ROUTERS)]
    for router in (0, 1):
        shared.send(router, calls[router])
    shared.routers[2].send(Kind.EXPERTS, 1, spoilt(calls[2]))
    if kind is None:
        with pytest.raises(ConnectionError):
            shared.routers[2].receive()
    else:
        assert shared.routers[2].receive()[0].kind is kind
    shared.send(3, calls[3])
    shared.shard.compute.let_go(2)
    for router in (0, 1, 3):
        shared.check(router, calls[router])
    assert len(shared.shard.compute.calls[-1].x_RD) == 3 * ROWS
    other.close()


@pytest.mark.parametrize("away", [0, 2])
def test_a_router_that_hangs_up_while_its_call_waits_is_not_computed_for(shared: Shared, away: int) -> None:
    """As one does whose `experts.call_timeout_seconds` has passed. The oldest call's router may go like any other."""
    other, calls = shared.busy(), [call_of(0, ROWS, n) for n in range(ROUTERS)]
    for router, call in enumerate(calls):
        shared.send(router, call)
    shared.routers[away].close()
    shared.shard.compute.let_go(2)
    for router in set(range(ROUTERS)) - {away}:
        shared.check(router, calls[router])
    assert len(shared.shard.compute.calls[-1].x_RD) == 3 * ROWS
    assert shared.server.rejected == {}
    other.close()


def test_calls_in_flight_on_one_connection_are_answered_in_their_order(shared: Shared) -> None:
    """Two of one router for different layers, beside another router's call for the second one's layer."""
    other, calls = shared.busy(), [call_of(1, 3, 1), call_of(2, 4, 2)]
    shared.send(1, call_of(2, 5))
    shared.send(0, calls[0], 1)
    shared.routers[0].send(Kind.EXPERTS, 2, pack_call(calls[1]))
    shared.shard.compute.let_go(4)
    shared.check(1, call_of(2, 5))
    for sequence, call in enumerate(calls, 1):
        shared.check(0, call, sequence)
    other.close()

"""Two calls to a shard in flight: each gets its own reply, in whatever order they come, or fails by itself."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import experts.watch.dialling
from experts.pool import Dispatched
from experts.routing import Routing
from experts.transport.address import Endpoint
from experts.transport.channel import Channel, connect
from tests.support.exchange_rig import Rig
from tests.support.mesh import CPU, Mesh, until
from tests.support.tiny import Tiny

Make = Callable[..., Tiny]
# Six experts, two shards: each is asked for.
IDS = np.array([[0, 1], [0, 3], [4, 5]])


@pytest.fixture(params=[1, 2], ids=["one connection", "two connections"])
def rig(tiny: Make, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Where there are fewer connections than lanes, they share them."""
    with Rig(tiny("mixtral").plan, lanes=request.param) as rig:
        yield rig


def send(rig: Rig, x_TD: torch.Tensor, lane: int) -> Dispatched:
    return rig.pool.dispatch(0, x_TD, Routing(IDS, np.full(IDS.shape, 0.5, np.float32)), lane)


def take(rig: Rig, handle: Dispatched) -> torch.Tensor:
    combined = rig.pool.combine(handle, CPU)
    assert combined.failures == ()
    return combined.y_TD


def test_each_call_gets_its_own_reply(rig: Rig) -> None:
    inputs = [torch.randn(3, rig.hidden) for _ in range(6)]
    alone = [take(rig, send(rig, x_TD, 0)) for x_TD in inputs]
    handles = [send(rig, inputs[0], 0)]
    for number in range(1, len(inputs)):
        handles.append(send(rig, inputs[number], number % 2))
        assert torch.equal(take(rig, handles[number - 1]), alone[number - 1])
    assert torch.equal(take(rig, handles[-1]), alone[-1])


def test_a_shard_that_dies_fails_both_calls(rig: Rig) -> None:
    with rig.servers.running[1].turn:
        handles = [send(rig, torch.randn(3, rig.hidden), lane) for lane in (0, 1)]
        rig.servers.stop(1)
    for handle in handles:
        combined = rig.pool.combine(handle, CPU)
        assert [(failure.shard, failure.reason) for failure in combined.failures] == [(1, "eof")]
        assert combined.lost_tokens.tolist() == [1, 2]


def test_a_call_does_not_wait_on_the_connection_that_replaced_its_own(rig: Rig) -> None:
    """The next call of the other lane takes the new connection up: what was in flight is asked there once more."""
    x_TD = torch.randn(3, rig.hidden)
    alone = take(rig, send(rig, x_TD, 0))
    first = send(rig, x_TD, 0)
    with rig.servers.running[1].turn:
        second = send(rig, x_TD, 1)
        rig.connect(1)
    # Shard 1 may have answered the first one already; that connection is closed all the same.
    rig.pool.combine(first, CPU)
    third = send(rig, x_TD, 0)
    assert torch.equal(take(rig, second), alone)
    assert rig.pool.record.failovers["eof"] >= 1
    assert torch.equal(take(rig, third), alone)
    assert torch.equal(take(rig, send(rig, x_TD, 1)), alone)


def test_a_call_that_nobody_takes_does_not_harm_the_next(rig: Rig) -> None:
    """As after a step that raised: at worst the connection is given up, and a new one works."""
    x_TD = torch.randn(3, rig.hidden)
    alone = take(rig, send(rig, x_TD, 0))
    send(rig, x_TD, 1)
    rig.pool.combine(send(rig, x_TD, 1), CPU)
    for shard in (0, 1):
        rig.connect(shard)
    assert torch.equal(take(rig, send(rig, x_TD, 0)), alone)
    assert torch.equal(take(rig, send(rig, x_TD, 1)), alone)


def test_a_shard_is_offered_with_a_channel_for_each_lane(rig: Rig) -> None:
    with pytest.raises(ValueError, match=f"shard 0 is offered 0 channels, it must be {rig.transport.lanes}"):
        rig.transport.offer(0)


@pytest.mark.parametrize(("overlap", "connections"), [("off", 1), ("on", 2), ("auto", 2)])
def test_a_router_has_a_connection_for_each_call_in_flight(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, overlap: str, connections: int
) -> None:
    """And one for the shard's status."""
    made = Counter[int]()

    def counted(endpoint: Endpoint, *args: Any) -> Channel:
        made[endpoint.index] += 1
        return connect(endpoint, *args)

    monkeypatch.setattr(experts.watch.dialling, "connect", counted)
    with Mesh(tiny("mixtral").plan, 2, "unix", overlap=overlap) as mesh:
        connector = mesh.connector
        assert connector is not None
        until(lambda: all(one.status for one in connector.connections), "each shard has told its status")
        assert made == {0: connections + 1, 1: connections + 1}
        assert [one.connects for one in connector.connections] == [1, 1]

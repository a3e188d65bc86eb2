"""A shard that is given nothing serves, beats and is healthy, and takes over experts when it is told to."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import torch

from experts.shard.server import ExpertServer
from experts.transport.call import pack_call, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.control import Beat, Miss
from experts.transport.frame import Kind
from tests.support.live import LiveRig
from tests.support.mesh import CREDENTIALS, HELLO, NODE
from tests.support.tiny import Tiny
from tests.unit.experts.frame_servers import expert_server, status_of


@pytest.fixture
def rig(tiny: Callable[..., Tiny]) -> LiveRig:
    return LiveRig(tiny("mixtral").plan)


@pytest.fixture
def server(rig: LiveRig) -> Iterator[ExpertServer]:
    rig.shard.warm_up()
    server = expert_server(rig.shard, threads=2)
    yield server
    server.close()


def join(server: ExpertServer) -> closing[Channel]:
    return closing(connect(server.endpoint, NODE, CREDENTIALS, 10.0, hello=HELLO))


def test_it_serves_and_is_healthy(server: ExpertServer) -> None:
    server.check_health(10)
    with join(server) as control:
        status = status_of(control)
        assert (status["experts"], status["weights_bytes"], status["copying"]) == (0, 0, 0)
        header, payload = control.receive()
        assert (header.kind, Beat.unpacked(payload).draining) == (Kind.BEAT, False)


def test_it_misses_computes_and_misses_again(rig: LiveRig, server: ExpertServer) -> None:
    call = rig.call(1, [2, 4])
    with join(server) as peer:
        for number in range(3):
            peer.send(Kind.EXPERTS, 2 * number, pack_call(call))
            header, payload = peer.receive()
            assert (header.kind, Miss.unpacked(payload).experts) == (Kind.MISS, (2, 4))
            rig.live.hold({1: [2, 4], 0: [0]})
            server.check_health(10)
            peer.send(Kind.EXPERTS, 2 * number + 1, pack_call(call))
            header, payload = peer.receive()
            assert header.kind is Kind.PARTIALS
            assert torch.equal(unpack_partial(payload).y_ND, rig.expected(call))
            rig.live.keep({0: [0]})
    with join(server) as control:
        assert status_of(control)["experts"] == 1


def test_after_faults_it_is_healthy_without_a_sample(server: ExpertServer) -> None:
    server.queue.computation.faults = 5
    server.check_health(10)

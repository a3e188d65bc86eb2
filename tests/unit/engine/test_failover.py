"""A shard that dies, comes back, or stays silent: who needs it waits or is told, nobody else notices."""

import gc
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from router_service.engine.failures import DEADLINE_MARGIN_SECONDS
from router_service.engine.request import Event
from router_service.protocol.messages import StreamFailure
from tests.support import oracle
from tests.support.divided import HERE, THERE, make_divided
from tests.support.mesh import Mesh, greedy, tokens_of, until
from tests.support.routed import routing_of
from tests.support.tiny import Tiny


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_divided(tmp_path_factory.mktemp("divided"))


@pytest.fixture
def mesh(divided: Tiny) -> Iterator[Mesh]:
    with Mesh(divided.plan, 2, "unix") as mesh:
        yield mesh


def failure_of(events: list[Event]) -> StreamFailure:
    assert events[-1].failure is not None
    assert events[-1].finish is None
    return events[-1].failure


def steps(mesh: Mesh, count: int) -> list[Event]:
    """Step on, whether or not there is something to do."""
    return [event for _ in range(count) for event in mesh.engine.step()]


def test_the_halves_do_not_meet(mesh: Mesh) -> None:
    for token, shard in ((HERE, 0), (THERE, 1)):
        events = mesh.generate([[token] * 4], greedy(20), return_routing=True)[0]
        layers = [one for position in routing_of(events) for one in position]
        assert {number for one in layers for number in one.shards} == {shard}


@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_shard_that_comes_back_goes_on_where_it_was(tiny: Callable[..., Tiny], family: str, way: str) -> None:
    """Killed twice in mid run: the tokens are transformers' all the same, and no block is lost."""
    made = tiny(family)
    answers = oracle.greedy(made.oracle, oracle.prompts(6), 24)
    with Mesh(made.plan, 3, way) as mesh:
        keys = [mesh.submit(answer.prompt, greedy(24)) for answer in answers]
        events: list[Event] = []
        for victim in (1, 2):
            events += steps(mesh, 5)
            old = mesh.servers.running[victim].endpoint.incarnation
            mesh.servers.stop(victim)
            events += steps(mesh, 20)
            assert len(mesh.engine.requests) == 6
            assert mesh.servers.start(victim).endpoint.incarnation != old
        for key, rest in mesh.drain().items():
            events += [event for event in rest if event.key == key]
        outputs = [tokens_of([event for event in events if event.key == key]) for key in keys]
        assert outputs == [answer.tokens for answer in answers]
        assert mesh.blocks_used == 0
        assert [connection.connects for connection in mesh.connector.connections] == [1, 2, 2]  # type: ignore[union-attr]


def test_who_does_not_need_the_shard_goes_on(mesh: Mesh) -> None:
    calm = [tokens_of(events) for events in mesh.generate([[HERE] * 4, [THERE] * 5, [HERE] * 9], greedy(20))]
    here, there, also = (mesh.submit(prompt, greedy(20)) for prompt in ([HERE] * 4, [THERE] * 5, [HERE] * 9))
    events = steps(mesh, 3)
    mesh.servers.stop(1)
    events += steps(mesh, 20)
    assert [tokens_of([e for e in events if e.key == key]) for key in (here, also)] == [calm[0], calm[2]]
    assert [request.key for request in mesh.engine.requests] == [there]
    mesh.servers.start(1)
    events += mesh.drain()[there]
    assert tokens_of([e for e in events if e.key == there]) == calm[1]
    assert mesh.blocks_used == 0


def test_who_waits_too_long_hears_which_shard_is_away(mesh: Mesh) -> None:
    now = time.monotonic()
    mesh.engine.clock = lambda: now
    mesh.engine.unavailable_wait_s = 10.0
    mesh.servers.stop(1)
    key = mesh.submit([THERE] * 4, greedy(20))
    assert mesh.engine.step() == []
    now += 9.9
    assert mesh.engine.step() == []
    now += 0.2
    (event,) = mesh.engine.step()
    assert (event.key, failure_of([event]).code) == (key, "UNAVAILABLE")
    assert "shard 1" in failure_of([event]).message
    assert mesh.blocks_used == 0


def test_who_has_a_deadline_hears_of_it_before(mesh: Mesh) -> None:
    """By a clock of the test's own: a slow machine may not reach the first step within any real deadline."""
    now = begun = time.monotonic()
    mesh.engine.clock = lambda: now
    mesh.engine.unavailable_wait_s = 1000.0
    mesh.servers.stop(1)
    key = mesh.submit([THERE] * 4, greedy(20), deadline=begun + 10)
    late = mesh.submit([HERE] * 4, greedy(20), deadline=begun - 0.001)
    (event,) = mesh.engine.step()
    assert (event.key, failure_of([event]).code) == (late, "DEADLINE_EXCEEDED")
    now = begun + 10 - 1.5 * DEADLINE_MARGIN_SECONDS
    assert mesh.engine.step() == []
    now = begun + 10 - 0.5 * DEADLINE_MARGIN_SECONDS
    (event,) = mesh.engine.step()
    assert (event.key, failure_of([event]).code) == (key, "UNAVAILABLE")
    assert "shard 1" in failure_of([event]).message
    assert mesh.blocks_used == 0


def test_a_cancelled_request_frees_its_blocks_while_its_shard_is_away(mesh: Mesh) -> None:
    mesh.servers.stop(1)
    key = mesh.submit([THERE] * 4, greedy(20))
    assert steps(mesh, 5) == []
    assert mesh.blocks_used > 0
    mesh.engine.cancel(key)
    assert (mesh.blocks_used, mesh.engine.idle()) == (0, True)
    mesh.servers.start(1)
    assert tokens_of(mesh.generate([[THERE] * 4], greedy(3))[0])


def test_a_shard_that_never_answers_times_out(divided: Tiny) -> None:
    """Its connection is given up, a new one is made, and in the end the request is told.

    The shard beats, and gets on with no computation: its turn is held by the test all the while. The engine's clock
    moves by a second with each look at it.
    """
    with (
        Mesh(divided.plan, 2, "unix", unavailable_wait_seconds=60.0, call_timeout_s=0.5) as mesh,
        mesh.servers.running[1].turn,
    ):
        mesh.engine.clock = map(float, count(1)).__next__
        key = mesh.submit([THERE] * 4, greedy(20))
        assert mesh.engine.step() == []
        assert {shard: fault.reason for shard, fault in mesh.records[-1].trace.failures.items()} == {1: "timeout"}
        other = mesh.submit([HERE] * 4, greedy(4))
        outputs = mesh.drain()
        assert tokens_of(outputs[other])
        assert failure_of(outputs[key]).code == "UNAVAILABLE"
        assert "shard 1" in failure_of(outputs[key]).message
        assert mesh.blocks_used == 0


def test_a_shard_that_is_replaced_again_and_again_while_nobody_asks(mesh: Mesh) -> None:
    """The connections that were never used are closed: a leak of one is a warning, and so an error."""
    assert mesh.connector is not None
    for life in range(2, 5):
        mesh.servers.stop(1)
        mesh.servers.start(1)
        until(lambda life=life: mesh.connector.connections[1].connects == life, "it is connected again")
    assert tokens_of(mesh.generate([[THERE] * 4], greedy(3))[0])
    gc.collect()


def test_a_connection_lost_between_steps_is_an_eof(mesh: Mesh) -> None:
    key = mesh.submit([THERE] * 4, greedy(20))
    mesh.engine.step()
    mesh.servers.stop(1)
    mesh.engine.step()
    assert {shard: fault.reason for shard, fault in mesh.records[-1].trace.failures.items()} == {1: "eof"}
    mesh.engine.cancel(key)


def test_a_question_that_fails_on_the_shard_is_an_error(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(mesh.servers.shards[1], "compute", broken)
    key = mesh.submit([THERE] * 4, greedy(20))
    mesh.engine.step()
    fault = mesh.records[-1].trace.failures[1]
    assert (fault.reason, "out of luck" in str(fault)) == ("error", True)
    monkeypatch.undo()
    assert tokens_of(mesh.drain()[key])


def test_the_connector_says_what_it_knows(mesh: Mesh) -> None:
    connector = mesh.connector
    assert connector is not None
    until(lambda: all(connection.status for connection in connector.connections), "every shard has told its status")
    assert [connection.status["experts"] for connection in connector.connections] == [9, 9]
    mesh.servers.stop(1)
    mesh.submit([THERE] * 4, greedy(2))
    until(lambda: mesh.engine.step() is not None and not connector.connected(), "the loss is seen")
    server = mesh.servers.start(1)
    until(connector.connected, "it is connected again")
    assert connector.connections[1].endpoint == server.endpoint

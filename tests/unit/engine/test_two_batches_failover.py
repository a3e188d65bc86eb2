"""A shard that fails while two batches are in flight: both lose what they lose, and nothing else; nothing hangs."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from experts.transport.base import Reply, Sent, ShardUnavailable
from router_service.engine.request import Event
from tests.support import oracle
from tests.support.divided import HERE, THERE, make_divided
from tests.support.mesh import Mesh, greedy, tokens_of, until
from tests.support.routed import routing_of
from tests.support.silenced import before_call, kill_silent
from tests.support.tiny import Tiny

COUNT = 12
# Rows of both sides in either batch.
PROMPTS = [[HERE] * 4, [THERE] * 5, [HERE] * 3, [THERE] * 4] * 2


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_divided(tmp_path_factory.mktemp("divided"))


@pytest.fixture
def mesh(divided: Tiny) -> Iterator[Mesh]:
    with Mesh(divided.plan, 2, "unix", overlap="on") as mesh:
        yield mesh


def test_both_batches_lose_what_was_on_the_shard_and_no_more(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(COUNT))]
    keys = [mesh.submit(prompt, greedy(COUNT), return_routing=True, return_scores=True) for prompt in PROMPTS]
    events = list(mesh.engine.step())
    before_call(monkeypatch, mesh, "combine", 0, kill_silent(mesh, 1))
    events += mesh.engine.step()
    trace = mesh.records[-1].trace
    # Decoding: one row each, in the order of admission.
    assert trace.lost_T.tolist() == [prompt[0] == THERE for prompt in PROMPTS]
    assert {shard: fault.reason for shard, fault in trace.failures.items()} == {1: "eof"}
    monkeypatch.undo()
    mesh.servers.start(1)
    for key, rest in mesh.drain().items():
        events += [event for event in rest if event.key == key]
    assert [tokens_of([event for event in events if event.key == key]) for key in keys] == calm
    assert mesh.blocks_used == 0


@pytest.mark.parametrize("order", [[HERE] * 4 + [THERE] * 4, [THERE] * 4 + [HERE] * 4], ids=["second", "first"])
def test_a_batch_that_loses_everything_ends_and_the_other_goes_on(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, order: list[int]
) -> None:
    """The whole batch's layers that remain are left out; the other's tokens, routings and scores are as ever."""
    prompts = [[token] * 4 for token in order]
    calm = mesh.generate(prompts, greedy(COUNT), return_routing=True, return_scores=True)
    keys = [mesh.submit(prompt, greedy(COUNT), return_routing=True, return_scores=True) for prompt in prompts]
    before_call(monkeypatch, mesh, "combine", 0, kill_silent(mesh, 1))
    events: list[Event] = []
    for _ in range(COUNT):
        events += mesh.engine.step()
    record = mesh.records[-COUNT]
    assert record.trace.lost_T.tolist() == [token == THERE for token in order for _ in range(4)]
    assert [trip.layer for trip in record.trace.trips].count(2) == 1
    assert [len(routing.expert_ids_TK) for _, routing in record.trace.routings] == [32, 32, 32]
    for key, token, one in zip(keys, order, calm, strict=True):
        if token == HERE:
            ours = [event for event in events if event.key == key]
            assert tokens_of(ours) == tokens_of(one)
            assert routing_of(ours) == routing_of(one)
    assert len(mesh.engine.requests) == 4
    mesh.servers.start(1)
    rest = mesh.drain()
    ends = [rest[key] for key, token in zip(keys, order, strict=True) if token == THERE]
    assert [tokens_of(one) for one in ends] == [
        tokens_of(one) for one, token in zip(calm, order, strict=True) if token == THERE
    ]


@pytest.mark.parametrize("number", range(5))
def test_wherever_in_the_step_it_dies(tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Experts of a real routing, three shards: the tokens are transformers' all the same."""
    made = tiny("mixtral")
    answers = oracle.greedy(made.oracle, oracle.prompts(8), COUNT)
    with Mesh(made.plan, 3, "unix", overlap="on") as mesh:
        keys = [mesh.submit(answer.prompt, greedy(COUNT)) for answer in answers]
        events = [event for _ in range(3) for event in mesh.engine.step()]
        before_call(monkeypatch, mesh, "combine", number, lambda: mesh.servers.stop(1))
        events += mesh.engine.step()
        monkeypatch.undo()
        mesh.servers.start(1)
        for key, rest in mesh.drain().items():
            events += [event for event in rest if event.key == key]
        outputs = [tokens_of([event for event in events if event.key == key]) for key in keys]
        assert outputs == [answer.tokens for answer in answers]
        assert mesh.blocks_used == 0


def test_a_shard_that_answers_too_late_is_asked_anew(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch's wait is over before the shard answers: both its calls are given up, and late replies unread."""
    calm = [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(COUNT))]
    keys = [mesh.submit(prompt, greedy(COUNT)) for prompt in PROMPTS]
    transport, turn, connector = mesh.engine.pool.transport, mesh.servers.running[1].turn, mesh.connector
    receive = transport.receive

    def impatient(sent: Mapping[int, Sent], deadline_s: float) -> Reply | ShardUnavailable:
        return receive(sent, 0.0 if set(sent) == {1} else deadline_s)

    assert connector is not None
    with turn:
        monkeypatch.setattr(transport, "receive", impatient)
        events = list(mesh.engine.step())
        assert {shard: fault.reason for shard, fault in mesh.records[-1].trace.failures.items()} == {1: "timeout"}
        monkeypatch.undo()
        until(lambda: connector.connections[1].connects == 2, "it is connected again")
    for key, rest in mesh.drain().items():
        events += [event for event in rest if event.key == key]
    assert [tokens_of([event for event in events if event.key == key]) for key in keys] == calm

"""Experts lost while a layer is in flight: the rows concerned make do, in each batch, and nobody else notices."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest

from experts.placement import even_placement
from kernels.ops import Backend
from router_service.engine.request import Event
from router_service.protocol.fallback import Fallback
from tests.support.bereft import bereft
from tests.support.divided import HERE, THERE, make_divided
from tests.support.lossy import Lossy
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.routed import Layer, routing_of
from tests.support.silenced import before_call, kill_silent
from tests.support.tiny import Tiny, random_prompts

DROP, NEXT_BEST, FAIL = Fallback.DROP, Fallback.NEXT_BEST, Fallback.FAIL
COUNT = 8
# Rows of both sides in either batch; what happens to one request must not be seen in the others' bits.
TOKENS = [HERE, THERE, HERE, THERE] * 2
POLICIES = [Fallback.WAIT, DROP, FAIL, NEXT_BEST, DROP, FAIL, NEXT_BEST, Fallback.WAIT]


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_divided(tmp_path_factory.mktemp("divided"))


@pytest.mark.parametrize("policy", [DROP, NEXT_BEST])
@pytest.mark.parametrize("number", range(6))
def test_wherever_in_the_step_a_shard_is_lost(
    tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch, policy: Fallback, number: int
) -> None:
    """Two batches take turns: from one's dispatch number `number` on, counted over both, the shard cannot be called."""
    made, prompts = tiny("mixtral"), random_prompts(8, 7, seed=number)
    dead = set(even_placement(6, 3).everywhere.held_by(1))
    config = {"overlap": "on", "exact_combine": number % 2 == 0, "prefix_caching": False, "around": Lossy}
    with Mesh(made.plan, 3, "unix", **config) as mesh:  # type: ignore[arg-type]
        transport = cast(Lossy, mesh.engine.pool.transport)
        keys = [mesh.submit(prompt, greedy(COUNT), fallback=policy) for prompt in prompts]
        events = [event for _ in range(3) for event in mesh.engine.step()]
        before_call(monkeypatch, mesh, "dispatch", number, lambda: transport.dying.add(1))
        for key, rest in mesh.drain().items():
            events += [event for event in rest if event.key == key]
        for place, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
            ours = [event for event in events if event.key == key]
            # Half of the rows are in the first batch, whose dispatches have the even numbers.
            layer = max(0, -(-(number - place // 4) // 2))
            check_from(made, prompt, ours, len(prompt) - 1 + 3, layer, dead, policy)
        assert mesh.blocks_used == 0


def check_from(
    made: Tiny, prompt: list[int], events: list[Event], position: int, layer: int, dead: set[int], policy: Fallback
) -> None:
    """Require the tokens and marks of a run without experts from a layer of a position on."""
    tokens = tokens_of(events)
    calls = iter(range(made.plan.spec.layers * 100))
    layers = len(made.plan.spec.moe_layers)
    at_layer = {"now": -1}

    def dead_at(at: int) -> set[int]:
        if at == 0:
            at_layer["now"] = next(calls) % layers
        return dead if at > position or (at == position and at_layer["now"] >= layer) else set()

    reference = bereft(made.oracle, made.plan.spec.gate, [*prompt, *tokens[:-1]], dead_at, policy)
    assert tokens == reference.logits_TV[len(prompt) - 1 :].argmax(-1).tolist()
    marks = [reference.marked(len(prompt) - 1 + place) for place in range(len(tokens))]
    assert [event.degraded for event in events if event.token is not None] == marks


@pytest.fixture
def mesh(divided: Tiny) -> Iterator[Mesh]:
    with Mesh(divided.plan, 2, "unix", overlap="on") as mesh:
        if mesh.engine.ops.backend is not Backend.NATIVE:
            pytest.skip("the native kernels were not built: with others a row's bits depend on its batch")
        yield mesh


def test_undisturbed_rows_keep_their_bits(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the policies of those that lose their experts, and of those that do not."""
    prompts = [[token] * 4 for token in TOKENS]
    params = greedy(COUNT, logprobs=20)
    calm = mesh.generate(prompts, params)
    mesh.engine.scheduler.clear()
    keys = [mesh.submit(p, params, fallback=policy) for p, policy in zip(prompts, POLICIES, strict=True)]
    before_call(monkeypatch, mesh, "combine", 0, kill_silent(mesh, 1))
    events = [event for _ in range(COUNT) for event in mesh.engine.step()]
    monkeypatch.undo()
    for key, token, policy, before in zip(keys, TOKENS, POLICIES, calm, strict=True):
        ours = [event for event in events if event.key == key]
        if token == HERE:
            assert [event.logprobs for event in ours] == [event.logprobs for event in before]
            assert not any(event.degraded for event in ours)
        elif policy.goes_on:
            assert tokens_of(ours)
            assert all(event.degraded for event in ours)
        elif policy is FAIL:
            assert ours[-1].failure is not None
    assert [request.key for request in mesh.engine.requests] == [keys[7]]
    mesh.servers.start(1)
    rest = mesh.drain()[keys[7]]
    assert [event.logprobs for event in rest] == [event.logprobs for event in calm[7]]
    assert mesh.blocks_used == 0


def layers_of(events: Sequence[Event]) -> list[Layer]:
    return [layer for position in routing_of(events) for layer in position]


@pytest.mark.parametrize("known", [True, False])
def test_the_routing_is_what_was_computed(divided: Tiny, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """A dropped expert is marked so, one that took its place is named with its shard, and the scores have it."""
    with Mesh(divided.plan, 2, "unix") as mesh:
        if known:
            mesh.servers.stop(1)
            mesh.generate([[THERE] * 2], greedy(1), fallback=DROP)
        else:
            before_call(monkeypatch, mesh, "combine", 0, kill_silent(mesh, 1))
        asked = {"return_routing": True, "return_scores": True}
        drop = mesh.submit([THERE] * 3, greedy(2), fallback=DROP, **asked)
        best = mesh.submit([THERE] * 3, greedy(2), fallback=NEXT_BEST, **asked)
        events = mesh.drain()
        for layer in layers_of(events[drop]):
            assert layer.experts == layer.shards == [0xFFFF] * 2
            assert layer.weights == [0, 0]
            assert {expert for expert, _ in layer.scores} == set(range(6))
        for layer in layers_of(events[best]):
            assert set(layer.experts) < {0, 1, 2}
            assert layer.shards == [0, 0]
            assert sum(layer.weights) == pytest.approx(1)

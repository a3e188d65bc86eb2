"""Experts without a living copy: each policy against transformers' model with the same experts missing."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_service.engine.request import Event
from router_service.protocol.fallback import Fallback
from tests.support import oracle
from tests.support.bereft import DeadAt, bereft
from tests.support.lossy import Lossy
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.tiny import Tiny, random_prompts

DROP, NEXT_BEST, WAIT, FAIL = Fallback.DROP, Fallback.NEXT_BEST, Fallback.WAIT, Fallback.FAIL
COUNT = 6
# Shallow, and Llama 4 also with several experts a token, so that something is left to be scaled.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "qwen2": ("qwen2_moe", {}),
    "qwen3": ("qwen3_moe", {}),
    "deepseek": ("deepseek_v3", {}),
    "llama4": ("llama4", {}),
    "llama4 top-3": ("llama4", {"num_experts_per_tok": 3}),
    "gpt_oss": ("gpt_oss", {}),
}
Family = tuple[Tiny, Mesh, Lossy]


@contextmanager
def lossy(made: Tiny, **config: Any) -> Iterator[tuple[Mesh, Lossy]]:
    """An engine over one shard for each expert, so that any experts can be lost."""
    with Mesh(made.plan, made.plan.spec.gate.experts, around=Lossy, **config) as mesh:
        yield mesh, cast(Lossy, mesh.engine.pool.transport)


def check(made: Tiny, prompt: list[int], events: list[Event], dead_at: DeadAt, policy: Fallback) -> list[bool]:
    """Require the tokens, log-probabilities and marks of the reference; return the marks."""
    tokens = tokens_of(events)
    drawn = [event for event in events if event.token is not None]
    reference = bereft(made.oracle, made.plan.spec.gate, [*prompt, *tokens[:-1]], dead_at, policy)
    logprobs_GV = reference.logits_TV[len(prompt) - 1 :].log_softmax(-1)
    assert tokens == logprobs_GV.argmax(-1).tolist()
    for event, expected_V in zip(drawn, logprobs_GV, strict=True):
        assert event.logprobs is not None
        assert math.isclose(event.logprobs.chosen.logprob, expected_V[event.token].item(), abs_tol=2e-3)
    sparse_end = made.plan.spec.per_layer[-1].sparse
    marks = [reference.marked(len(prompt) - 1 + place, sparse_end) for place in range(len(tokens))]
    assert [event.degraded for event in drawn] == marks
    return marks


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_policy_is_what_the_model_computes_without_the_experts(
    tiny: Callable[..., Tiny], family: str, overlap: str
) -> None:
    """Known to be dead before the step, and lost in the middle of its layers; all policies in one batch."""
    name, changes = FAMILIES[family]
    made = tiny(name, **changes)
    prompts = random_prompts(6, 12, seed=len(family))
    policies = [DROP, NEXT_BEST] * 3
    for dead, known in ((set[int](), True), ({1}, True), ({1}, False), ({0, 2, 5}, True), ({0, 2, 5}, False)):
        # Rows instead of sums are mended in the same way.
        config = {"overlap": overlap, "prefix_caching": False, "exact_combine": not known}
        with lossy(made, **config) as (mesh, transport):
            (transport.dead if known else transport.dying).update(dead)
            keys = [
                mesh.submit(prompt, greedy(COUNT, logprobs=0), fallback=policy)
                for prompt, policy in zip(prompts, policies, strict=True)
            ]
            events = mesh.drain()
            marks = [
                check(made, prompt, events[key], lambda _: dead, policy)  # noqa: B023 (called at once)
                for key, prompt, policy in zip(keys, prompts, policies, strict=True)
            ]
            assert any(map(any, marks)) == bool(dead)
            counted = {policy: sum(map(sum, marks[place::2])) for place, policy in enumerate((DROP, NEXT_BEST))}
            assert mesh.engine.fallback_tokens == {**counted, WAIT: 0, FAIL: 0}
            assert mesh.blocks_used == 0


@pytest.fixture(scope="module", params=["mixtral", "deepseek_v3"])
def shared(request: pytest.FixtureRequest, tiny: Callable[..., Tiny]) -> Iterator[Family]:
    made = tiny(request.param)
    with lossy(made, overlap="on", prefix_caching=False) as (mesh, transport):
        yield made, mesh, transport


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_experts_may_be_missing(shared: Family, data: st.DataObject) -> None:
    """Random dead sets, of which some are found out in the middle, up to all experts; random policies."""
    made, mesh, transport = shared
    experts = range(made.plan.spec.gate.experts)
    dead = data.draw(st.sets(st.sampled_from(experts)), label="dead")
    known = data.draw(st.sets(st.sampled_from(sorted(dead))) if dead else st.just(set()), label="known")
    if made.plan.spec.gate.groups > 1 and known:
        # What is dead without being known or asked still counts for its group, which the reference does not know.
        known = dead
    policies = data.draw(st.lists(st.sampled_from([DROP, NEXT_BEST]), min_size=1, max_size=5), label="policies")
    prompts = random_prompts(len(policies), 9, seed=data.draw(st.integers(0, 99), label="seed"))
    transport.dead, transport.dying = set(known), dead - known
    keys = [
        mesh.submit(prompt, greedy(3, logprobs=0), fallback=policy)
        for prompt, policy in zip(prompts, policies, strict=True)
    ]
    events = mesh.drain()
    for key, prompt, policy in zip(keys, prompts, policies, strict=True):
        check(made, prompt, events[key], lambda _: dead, policy)
    assert mesh.blocks_used == 0


@pytest.mark.parametrize("policy", [DROP, NEXT_BEST])
def test_marks_begin_when_an_expert_is_lost_and_stay(tiny: Callable[..., Tiny], policy: Fallback) -> None:
    """What was read degraded taints what follows it, also when the expert is back."""
    made = tiny("mixtral")
    prompt = random_prompts(1, 9, seed=4)[0]
    with lossy(made) as (mesh, transport):
        key = mesh.submit(prompt, greedy(20, logprobs=0), fallback=policy)
        events: list[Event] = []
        for step in range(20):
            if step == 5:
                transport.dead = {0, 1, 2}
            if step == 10:
                transport.dead = set()
            events += mesh.engine.step()
        assert {event.key for event in events} == {key}
        # The prompt's step draws the first token; step n computes the token before it.
        first, last = len(prompt) - 1 + 5, len(prompt) - 1 + 10
        marks = check(made, prompt, events, lambda at: {0, 1, 2} if first <= at < last else set(), policy)
        assert marks[:5] == [False] * 5
        assert marks[9:] == [True] * 11


def test_fail_names_the_layer_and_the_experts(tiny: Callable[..., Tiny]) -> None:
    made = tiny("mixtral")
    chosen = oracle.forced(made.oracle, torch.tensor([[5, 6]]))[1][0].expert_ids
    named = ", ".join(map(str, sorted(set(chosen.flatten().tolist()))))
    for known in (True, False):
        with lossy(made) as (mesh, transport):
            (transport.dead if known else transport.dying).update(range(6))
            key = mesh.submit([5, 6], greedy(4), fallback=FAIL)
            (event,) = mesh.engine.step()
            assert event.key == key
            assert event.failure is not None
            assert event.failure.code == "UNAVAILABLE"
            assert event.failure.message == f"layer 0: no living copy of experts {named} (fallback FAIL)"
            assert mesh.engine.fallback_tokens[FAIL] == 1
            assert (mesh.blocks_used, len(mesh.engine.requests)) == (0, 0)


@pytest.mark.parametrize("known", [True, False])
def test_policies_do_not_mix(tiny: Callable[..., Tiny], known: bool) -> None:
    """One batch with all four: who waits goes on when the experts are back, with the tokens of an undisturbed run."""
    made = tiny("qwen3_moe")
    prompts = random_prompts(4, 9, seed=2)
    with lossy(made, overlap="on") as (mesh, transport):
        calm = [tokens_of(events) for events in mesh.generate(prompts, greedy(COUNT))]
    with lossy(made, overlap="on") as (mesh, transport):
        (transport.dead if known else transport.dying).update({1, 3, 5})
        wait, drop, best, fail = (
            mesh.submit(prompt, greedy(COUNT, logprobs=0), fallback=policy)
            for prompt, policy in zip(prompts, Fallback, strict=True)
        )
        events = [event for _ in range(COUNT) for event in mesh.engine.step()]
        of = {key: [event for event in events if event.key == key] for key in (wait, drop, best, fail)}
        assert of[wait] == []
        assert of[fail][-1].failure is not None
        check(made, prompts[1], of[drop], lambda _: {1, 3, 5}, DROP)
        check(made, prompts[2], of[best], lambda _: {1, 3, 5}, NEXT_BEST)
        assert [request.key for request in mesh.engine.requests] == [wait]
        transport.dead.clear()
        rest = mesh.drain()[wait]
        assert tokens_of(rest) == calm[0]
        assert not any(event.degraded for event in rest)
        assert mesh.engine.fallback_tokens[WAIT] == 1
        assert mesh.blocks_used == 0


def test_known_dead_experts_cost_no_call(tiny: Callable[..., Tiny]) -> None:
    made = tiny("mixtral")
    with lossy(made) as (mesh, transport):
        transport.dead = {0, 1, 2}
        mesh.generate(random_prompts(3, 9), greedy(3), fallback=NEXT_BEST)
        assert all(not record.trace.failures for record in mesh.records)
        trips = [trip for record in mesh.records for trip in record.trace.trips]
        assert len(trips) == 3 * len(mesh.records)

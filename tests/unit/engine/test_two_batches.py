"""A step as two batches in flight gives what one batch gives: tokens, logits, routings, scores."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from router_service.engine.request import Event
from router_service.engine.step.step_record import StepRecord
from router_service.models.backbone import Backbone
from tests.support import oracle
from tests.support.mesh import LogitsSpy, Mesh, greedy, tokens_of
from tests.support.oracle import check_logits
from tests.support.routed import Layer, routing_of
from tests.support.tiny import FAMILIES, Tiny

Make = Callable[..., Tiny]

COUNT = 10
PROMPTS = oracle.prompts(9)


def batches_of(record: StepRecord) -> int:
    """How many trips each MoE layer of the step made."""
    layers = [trip.layer for trip in record.trace.trips]
    return layers.count(layers[0])


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_equal_transformers(
    tiny: Make, family: str, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, spy = tiny(family), LogitsSpy.on(monkeypatch)
    answers = oracle.greedy(made.oracle, PROMPTS, COUNT)
    with Mesh(made.plan, shards, "unix", overlap="on") as mesh:
        outputs = mesh.generate([answer.prompt for answer in answers], greedy(COUNT))
    assert [batches_of(record) for record in mesh.records] == [2] * COUNT
    assert [tokens_of(events) for events in outputs] == [answer.tokens for answer in answers]
    for row, answer in enumerate(answers):
        check_logits(torch.stack([step[row] for step in spy.steps]), answer.logits_GV)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_routings_scores_and_prompt_scores_belong_to_their_tokens(tiny: Make, family: str) -> None:
    """Every third request asks for scores, so that each batch has rows with and without."""
    told: dict[str, list[list[Event]]] = {}
    params = greedy(COUNT, prompt_logprobs=2)
    for way in ("on", "off"):
        with Mesh(tiny(family).plan, 2, "unix", overlap=way) as mesh:
            keys = [
                mesh.submit(prompt, params, return_routing=True, return_scores=number % 3 == 0)
                for number, prompt in enumerate(PROMPTS)
            ]
            events = mesh.drain()
            told[way] = [events[key] for key in keys]
        assert {batches_of(record) for record in mesh.records} == {2 if way == "on" else 1}
    for two, one in zip(told["on"], told["off"], strict=True):
        assert tokens_of(two) == tokens_of(one)
        assert prompt_scores(two) == pytest.approx(prompt_scores(one), rel=1e-4)
        assert len(layers_of(two)) == len(layers_of(one)) > 0
        for ours, theirs in zip(layers_of(two), layers_of(one), strict=True):
            assert (ours.layer, ours.experts, ours.shards) == (theirs.layer, theirs.experts, theirs.shards)
            assert ours.weights == pytest.approx(theirs.weights, rel=1e-4)
            assert [expert for expert, _ in ours.scores] == [expert for expert, _ in theirs.scores]
            assert [score for _, score in ours.scores] == pytest.approx([s for _, s in theirs.scores], rel=1e-4)


def prompt_scores(events: list[Event]) -> list[float]:
    """The log-probabilities of a prompt's tokens, and the two best at each of its positions."""
    told = [scores for event in events for scores in event.prompt_logprobs or []]
    return [one.logprob for scores in told for one in (scores.chosen, *scores.top)]


def layers_of(events: list[Event]) -> list[Layer]:
    return [layer for position in routing_of(events) for layer in position]


def test_chunks_of_long_prompts_share_steps_with_decoding(tiny: Make) -> None:
    made = tiny("mixtral")
    answers = oracle.greedy(made.oracle, PROMPTS, COUNT)
    with Mesh(made.plan, 2, "unix", overlap="on", token_budget=24) as mesh:
        outputs = mesh.generate([answer.prompt for answer in answers], greedy(COUNT))
    assert [tokens_of(events) for events in outputs] == [answer.tokens for answer in answers]
    assert {(record.kind, batches_of(record)) for record in mesh.records} > {("mixed", 2), ("decode", 2)}


def test_each_batch_computes_while_the_others_experts_do(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def watch(owner: Any, name: str, word: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def watched(*args: Any) -> Any:
            seen.append(word(*args))
            return original(*args)

        monkeypatch.setattr(owner, name, watched)

    with Mesh(tiny("deepseek_v3").plan, 2, "unix", overlap="on") as mesh:
        for _ in range(8):
            mesh.submit([1, 2], greedy(1))
        watch(mesh.engine.pool, "dispatch", lambda *args: f"dispatch {args[3]}")
        watch(mesh.engine.pool, "combine", lambda handle, *_: f"combine {handle.sent[0].lane}")
        watch(Backbone, "attention", lambda *_: "attention")
        watch(Backbone, "shared", lambda *_: "shared")
        mesh.engine.step()
    # Its first layer has no experts.
    first = ["attention", "attention", "dispatch 0", "shared", "attention", "attention", "dispatch 1", "shared"]
    second = ["combine 0", "attention", "dispatch 0", "shared", "combine 1", "attention", "dispatch 1", "shared"]
    assert seen == [*first, *second, "combine 0", "combine 1"]


def test_few_rows_stay_together(tiny: Make) -> None:
    with Mesh(tiny("mixtral").plan, 2, "unix", overlap="on") as mesh:
        mesh.generate([[1], [2], [3]], greedy(3))
    assert {batches_of(record) for record in mesh.records} == {1}


def test_shards_in_this_process_are_not_measured(tiny: Make) -> None:
    """They compute when their replies are asked for, so `auto` has nothing to try."""
    with Mesh(tiny("mixtral").plan, 2, overlap="auto") as mesh:
        mesh.generate([[1]] * 12, greedy(20))
    assert {batches_of(record) for record in mesh.records} == {1}


def test_auto_tries_both_ways_over_sockets(tiny: Make) -> None:
    made = tiny("mixtral")
    with Mesh(made.plan, 2, "unix", overlap="auto") as mesh:
        outputs = mesh.generate(PROMPTS, greedy(20))
    assert {batches_of(record) for record in mesh.records} == {1, 2}
    answers = oracle.greedy(made.oracle, PROMPTS, 20)
    assert [tokens_of(events) for events in outputs] == [answer.tokens for answer in answers]

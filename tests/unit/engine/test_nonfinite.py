"""Logits that are not finite end their own stream with the layer where it began; nobody else notices."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from router_service.engine.request import Event
from router_service.engine.scheduling.sequence import Sequence
from router_service.engine.step.nonfinite import nonfinite_rows
from router_service.models.backbone import Backbone
from router_service.models.step_batch import StepBatch
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.tiny import Tiny

PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [3] * 6]
# Prompts of one step lie in the order of their arrival.
VICTIM = 1


@pytest.fixture(params=["mixtral", "deepseek_v3", "gpt_oss"])
def mesh(tiny: Callable[..., Tiny], request: pytest.FixtureRequest) -> Iterator[Mesh]:
    with Mesh(tiny(request.param).plan, 2, block_size=2) as mesh:
        for tensor in cached(mesh):
            tensor.zero_()  # memory that nobody has written may hold anything
        yield mesh


def cached(mesh: Mesh) -> list[Tensor]:
    return [tensor for storage in mesh.engine.backbone.cache.groups for tensor in storage.tensors]


def poison(patch: pytest.MonkeyPatch, stage: str, layer: int, value: float) -> None:
    """Put `value` into one element of the last row of the victim's prompt, behind a stage of a layer."""
    work = getattr(Backbone, stage)

    def poisoned(self: Backbone, *args: Any) -> Any:
        done = work(self, *args)
        if stage == "logits":
            if len(done) == len(PROMPTS):
                done[VICTIM, 2] = value
            return done
        batch = next(arg for arg in args if isinstance(arg, StepBatch))
        if (stage != "attention" or args[0] == layer) and len(batch.segments) == len(PROMPTS):
            victim = batch.segments[VICTIM]
            tensor: Tensor = done[0] if isinstance(done, tuple) else done
            tensor[victim.start + victim.length - 1, 2] = value
        return done

    patch.setattr(Backbone, stage, poisoned)


def generate(mesh: Mesh) -> list[list[Event]]:
    return mesh.generate(PROMPTS, greedy(5))


def cached_tokens(mesh: Mesh, prompt: list[int]) -> int:
    """How many tokens of a prompt another request would find in the cache."""
    sequence = Sequence(0, [*prompt, 1], 100)
    return mesh.engine.scheduler.blocks.find(sequence) * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("stage", "layer", "where"),
    [
        ("embed", 0, "keys and values of layer 0 are the first that are not, so it began there or in the embedding"),
        ("attention", 0, "keys and values of layer 1 are the first that are not, so it began there or in layer 0"),
        ("attention", 1, "keys and values of layer 2 are the first that are not, so it began there or in layer 1"),
        ("attention", -1, "all keys and values are, so it began in layer {last} or behind it"),
        ("logits", 0, "all keys and values are, so it began in layer {last} or behind it"),
    ],
)
def test_one_stream_fails_by_name_and_the_others_go_on(
    mesh: Mesh, stage: str, layer: int, where: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = [tokens_of(events) for events in generate(mesh)]
    last = mesh.engine.backbone.spec.layers - 1
    with monkeypatch.context() as patch:
        poison(patch, stage, layer % (last + 1), value)
        outputs = generate(mesh)
    (event,) = outputs[VICTIM]
    assert event.failure is not None
    assert event.failure.code == "INTERNAL"
    assert event.failure.message.startswith("the model's logits are not finite at position 3: ")
    assert where.format(last=last) in event.failure.message
    assert [tokens_of(outputs[n]) for n in (0, 2)] == [calm[n] for n in (0, 2)]
    assert [cached_tokens(mesh, prompt) for prompt in PROMPTS] == [2, 0, 6]
    assert (mesh.engine.nonfinite_logits, mesh.blocks_used) == (1, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in cached(mesh))
    assert [tokens_of(events) for events in generate(mesh)] == calm


def test_a_prompt_whose_logits_are_not_finite_gets_no_scores(
    tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        poison(monkeypatch, "embed", 0, float("nan"))
        keys = [mesh.submit(prompt, greedy(1, prompt_logprobs=1)) for prompt in PROMPTS]
        events = mesh.drain()
    assert [len(events[key]) for key in keys] == [2, 1, 2]
    assert events[keys[VICTIM]][0].failure is not None


def test_rows_are_judged_one_by_one() -> None:
    logits_BV = torch.randn(6, 40)
    logits_BV[1, 3], logits_BV[2, 0], logits_BV[4, 39] = float("nan"), float("inf"), float("-inf")
    # Finite, though its sum is not.
    logits_BV[5] = torch.finfo(torch.float32).max
    assert nonfinite_rows(logits_BV) == [1, 2, 4]
    assert nonfinite_rows(torch.randn(3, 40)) == []

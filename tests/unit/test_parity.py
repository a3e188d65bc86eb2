"""The engine against transformers: the same tokens, logits and experts, however the experts are spread and reached."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experts.checkpoint import Checkpoint
from router_service.models.registry import plan_model
from tests import oracle
from tests.mesh import WAYS, LogitsSpy, Mesh, greedy, tokens_of
from tests.tiny import Tiny, make_tiny

TOKENS = 64
PROMPTS = oracle.prompts()
F32_TOLERANCE = 1e-4

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "mixtral tied": ("mixtral", {"tie_word_embeddings": True}),
    "mixtral sliding window": ("mixtral", {"sliding_window": 12}),
    "mixtral head_dim": ("mixtral", {"head_dim": 10, "num_key_value_heads": 6}),
    "mixtral top-1": ("mixtral", {"num_experts_per_tok": 1, "num_local_experts": 9}),
    "qwen3 dense layer": ("qwen3_moe", {}),
    "qwen3 all sparse": ("qwen3_moe", {"mlp_only_layers": []}),
    "qwen3 every second": ("qwen3_moe", {"mlp_only_layers": [], "decoder_sparse_step": 2, "num_hidden_layers": 4}),
    "qwen3 unnormalized": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3 biased": ("qwen3_moe", {"attention_bias": True}),
    "qwen3 tied": ("qwen3_moe", {"tie_word_embeddings": True}),
    "qwen3 sliding window": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 9}),
    "qwen3 unused window": ("qwen3_moe", {"use_sliding_window": False, "sliding_window": 9}),
}
FAMILIES = ("mixtral", "qwen3 dense layer")


@dataclass(frozen=True)
class Case:
    tiny: Tiny
    answers: list[oracle.Reference]


@pytest.fixture(scope="session")
def case(tiny: Callable[..., Tiny]) -> Callable[[str], Case]:
    @cache
    def get(variant: str) -> Case:
        family, changes = VARIANTS[variant]
        made = tiny(family, **changes)
        if changes.get("attention_bias"):
            made = with_biases(made)
        whole = variant in FAMILIES
        return Case(made, oracle.greedy(made.oracle, PROMPTS if whole else PROMPTS[::3], TOKENS if whole else 32))

    return get


def with_biases(made: Tiny) -> Tiny:
    """transformers starts biases at zero, which would hide them."""
    for name, parameter in made.oracle.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    made.oracle.save_pretrained(made.path)
    return made


def check_logits(ours_GV: Tensor, theirs_GV: Tensor, tolerance: float = F32_TOLERANCE) -> None:
    error = (ours_GV - theirs_GV).abs().max() / theirs_GV.abs().max()
    assert error < tolerance, f"relative error {error:.2e}"


def check_batch(mesh: Mesh, answers: list[oracle.Reference], spy: LogitsSpy) -> None:
    """One step computes all prompts, the 63 behind it a token of each."""
    outputs = mesh.generate([answer.prompt for answer in answers], greedy(len(answers[0].tokens)))
    assert [tokens_of(events) for events in outputs] == [answer.tokens for answer in answers]
    ours_GBV = torch.stack(spy.steps)
    check_logits(ours_GBV, torch.stack([answer.logits_GV for answer in answers], dim=1))
    spy.steps.clear()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_equal_transformers(
    case: Callable[[str], Case], family: str, shards: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 16 prompts in one batch, and one of them alone."""
    answers, spy = case(family).answers, LogitsSpy.on(monkeypatch)
    with Mesh(case(family).tiny.plan, shards, way, checksum=shards == 3) as mesh:
        check_batch(mesh, answers, spy)
        check_batch(mesh, [answers[shards + 5 * WAYS.index(way)]], spy)
        assert mesh.blocks_used == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_each_prompt_alone(case: Callable[[str], Case], family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = LogitsSpy.on(monkeypatch)
    with Mesh(case(family).tiny.plan, 2) as mesh:
        for answer in case(family).answers:
            check_batch(mesh, [answer], spy)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in FAMILIES])
def test_variants_of_the_configuration(
    case: Callable[[str], Case], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = LogitsSpy.on(monkeypatch)
    with Mesh(case(variant).tiny.plan, 3) as mesh:
        check_batch(mesh, case(variant).answers, spy)
        check_batch(mesh, case(variant).answers[-1:], spy)


@pytest.mark.parametrize("variant", ["mixtral", "qwen3 dense layer", "qwen3 unnormalized"])
def test_experts_and_weights_equal_transformers(case: Callable[[str], Case], variant: str) -> None:
    spec, answers = case(variant).tiny.plan.spec, case(variant).answers[::2]
    with Mesh(case(variant).tiny.plan, 3) as mesh:
        outputs = mesh.generate([a.prompt for a in answers], greedy(len(answers[0].tokens)), return_routing=True)
    for events, answer in zip(outputs, answers, strict=True):
        positions = [layers for event in events for layers in event.routing or []]
        for number, layer in enumerate(spec.moe_layers):
            ours = [layers[number] for layers in positions]
            assert {routing.layer for routing in ours} == {layer}
            assert [routing.experts for routing in ours] == answer.experts(number, spec.gate.top_k)
            check_weights(torch.tensor([r.weights for r in ours]), answer.gates[number], spec.gate.normalize)
            assert [r.shards for r in ours] == [[shard_of(e, spec.gate.experts) for e in r.experts] for r in ours]


def check_weights(ours_TK: Tensor, gate_TE: Tensor, normalize: bool) -> None:
    theirs_TK = gate_TE.softmax(-1).topk(ours_TK.shape[1], dim=-1).values
    if normalize:
        theirs_TK = theirs_TK / theirs_TK.sum(-1, keepdim=True)
    torch.testing.assert_close(ours_TK, theirs_TK, rtol=1e-4, atol=1e-6)


def shard_of(expert: int, experts: int) -> int:
    """Of three shards, where the first ones hold one expert more if it does not come out even."""
    sizes = [len(part) for part in torch.tensor_split(torch.arange(experts), 3)]
    return next(shard for shard in range(3) if expert < sum(sizes[: shard + 1]))


def respell(path: Path, spelling: str) -> None:
    """Write config.json as an older, or a newer, version of transformers would."""
    config = json.loads((path / "config.json").read_text())
    experts = config.pop("num_local_experts")
    rope = config.pop("rope_parameters")
    dtype = config.pop("dtype")
    old = {"num_experts" if config["model_type"] == "qwen3_moe" else "num_local_experts": experts}
    old |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": dtype}
    new = {"num_local_experts": experts, "rope_parameters": rope, "dtype": dtype}
    config |= old if spelling == "old" else new
    if config["head_dim"] is None or (spelling == "old" and config["model_type"] == "mixtral"):
        config.pop("head_dim")
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_spellings_of_the_configuration(tmp_path: Path, family: str, spelling: str) -> None:
    """A base of rope that is no family's default, so that an unread key shows."""
    made = make_tiny(tmp_path / "it", family, rope_parameters={"rope_theta": 321.0, "rope_type": "default"})
    respell(made.path, spelling)
    plan = plan_model(Checkpoint(made.path))
    assert plan.spec == made.plan.spec
    assert (plan.spec.rope_theta, plan.spec.dtype) == (321.0, "float32")
    answers = oracle.greedy(made.oracle, PROMPTS[-2:], 16)
    with Mesh(plan) as mesh:
        outputs = mesh.generate([a.prompt for a in answers], greedy(16))
    assert [tokens_of(events) for events in outputs] == [a.tokens for a in answers]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_several_files(case: Callable[[str], Case], family: str, tmp_path: Path) -> None:
    made, path = case(family).tiny, tmp_path / "split"
    made.oracle.save_pretrained(path, max_shard_size="60KB")
    assert len(list(path.glob("*.safetensors"))) > 4
    assert not (path / "model.safetensors").exists()
    answers = case(family).answers[::4]
    with Mesh(plan_model(Checkpoint(path)), 2) as mesh:
        outputs = mesh.generate([a.prompt for a in answers], greedy(TOKENS))
    assert [tokens_of(events) for events in outputs] == [a.tokens for a in answers]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_half_precision_is_as_near_the_truth_as_transformers(
    tmp_path: Path, family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truth is float32 with the same weights, on the tokens that we drew.

    The median error of a position stays under a dozen roundings of the format, and no more than a quarter over
    transformers' own in that format. Not the largest: one expert chosen otherwise makes any error.
    """
    made, spy, count = make_tiny(tmp_path, family, dtype=dtype), LogitsSpy.on(monkeypatch), 32
    with Mesh(made.plan, 3, dtype=dtype) as mesh:
        drawn = [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(count))]
    load = type(made.oracle).from_pretrained
    true, same = load(made.path, dtype=torch.float32), load(made.path, dtype=dtype)
    ours, theirs = [], []
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, drawn, strict=True)):
        ids = torch.tensor([prompt + tokens[:-1]])
        truth = logits_of(true, ids, count)
        ours.append(errors(torch.stack([step[row] for step in spy.steps]), truth))
        theirs.append(errors(logits_of(same, ids, count), truth))
    print(
        family,
        dtype,
        torch.cat(ours).median() / torch.finfo(dtype).eps,
        torch.cat(theirs).median() / torch.finfo(dtype).eps,
        torch.cat(ours).mean(),
        torch.cat(theirs).mean(),
    )
    assert torch.cat(ours).median() < 12 * torch.finfo(dtype).eps
    assert torch.cat(ours).median() < 1.25 * torch.cat(theirs).median()


def logits_of(model: Any, ids: Tensor, count: int) -> Tensor:
    return oracle.forced(model, ids)[0][0, -count:].float()


def errors(logits_GV: Tensor, truth_GV: Tensor) -> Tensor:
    return (logits_GV - truth_GV).abs().amax(-1) / truth_GV.abs().amax(-1)

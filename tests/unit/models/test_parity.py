"""The engine against transformers: the same tokens, logits and experts, however the experts are spread and reached."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experts.checkpoint.directory import Checkpoint
from router_service.models.families.registry import plan_model
from tests.support import oracle
from tests.support.mesh import WAYS, LogitsSpy, Mesh, greedy, tokens_of
from tests.support.oracle import check_logits
from tests.support.routed import routing_of
from tests.support.tiny import FAMILIES, GPT_OSS, LLAMA4, YARN, Tiny, make_tiny

TOKENS = 64
PROMPTS = oracle.prompts()
# Weights so small that a rounding stays one: with the others' even transformers' own errors are 27 roundings.
CALM: dict[str, dict[str, Any]] = {"gpt_oss": {"initializer_range": 0.2}}
QWEN3_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 16}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "mixtral tied": ("mixtral", {"tie_word_embeddings": True}),
    "mixtral sliding window": ("mixtral", {"sliding_window": 12}),
    "mixtral head_dim": ("mixtral", {"head_dim": 10, "num_key_value_heads": 6}),
    "mixtral top-1": ("mixtral", {"num_experts_per_tok": 1, "num_local_experts": 9}),
    "qwen2 no biases": ("qwen2_moe", {"qkv_bias": False}),
    "qwen2 sliding window": ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}),
    "qwen2 normalized": ("qwen2_moe", {"norm_topk_prob": True}),
    "qwen3 all sparse": ("qwen3_moe", {"mlp_only_layers": []}),
    "qwen3 every second": ("qwen3_moe", {"mlp_only_layers": [], "decoder_sparse_step": 2, "num_hidden_layers": 4}),
    "qwen3 unnormalized": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3 biased": ("qwen3_moe", {"attention_bias": True}),
    "qwen3 tied": ("qwen3_moe", {"tie_word_embeddings": True}),
    "qwen3 sliding window": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 9}),
    "qwen3 unused window": ("qwen3_moe", {"use_sliding_window": False, "sliding_window": 9}),
    "qwen3 yarn": ("qwen3_moe", {"rope_parameters": QWEN3_YARN}),
    "qwen3 linear rope": (
        "qwen3_moe",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}},
    ),
    "olmoe clipped": ("olmoe", {"clip_qkv": 0.7}),
    "olmoe normalized": ("olmoe", {"norm_topk_prob": True}),
    "olmoe biased": ("olmoe", {"attention_bias": True}),
    "deepseek one group": ("deepseek_v3", {"n_group": 1, "topk_group": 1, "n_shared_experts": 1}),
    "deepseek direct queries": ("deepseek_v3", {"q_lora_rank": None}),
    "deepseek biased": ("deepseek_v3", {"attention_bias": True}),
    "deepseek plain rope": ("deepseek_v3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "deepseek rope in halves": ("deepseek_v3", {"rope_interleave": False}),
    "deepseek unlike mscales": ("deepseek_v3", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.4}}),
    "deepseek unnormalized": ("deepseek_v3", {"norm_topk_prob": False, "routed_scaling_factor": 1.3}),
    "llama4 all sparse": ("llama4", {"interleave_moe_layer_step": 1}),
    "llama4 top-2": ("llama4", {"num_experts_per_tok": 2}),
    "llama4 plain": ("llama4", {"use_qk_norm": False, "attn_temperature_tuning": False, "attention_bias": True}),
    "llama4 listed layers": ("llama4", {"moe_layers": [0, 3], "no_rope_layers": [1, 0, 1, 0]}),
    "gpt-oss calm": ("gpt_oss", CALM["gpt_oss"]),
    "gpt-oss no biases": ("gpt_oss", {"attention_bias": False}),
    "gpt-oss tight clamp": ("gpt_oss", {"swiglu_limit": 0.4, "swiglu_alpha": 1.1}),
    "gpt-oss wide": ("gpt_oss", {"num_experts_per_tok": 4, "num_key_value_heads": 6}),
}


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
        whole = variant in FAMILIES
        return Case(made, oracle.greedy(made.oracle, PROMPTS if whole else PROMPTS[::3], TOKENS if whole else 32))

    return get


def check_batch(mesh: Mesh, answers: list[oracle.Reference], spy: LogitsSpy) -> None:
    """One step computes all prompts, the 63 behind it a token of each."""
    outputs = mesh.generate([answer.prompt for answer in answers], greedy(len(answers[0].tokens)))
    assert [tokens_of(events) for events in outputs] == [answer.tokens for answer in answers]
    ours_GBV = torch.stack(spy.steps)
    check_logits(ours_GBV, torch.stack([answer.logits_GV for answer in answers], dim=1))
    spy.steps.clear()


# What goes over a socket is the same for every family but for its sizes and its ways of routing: two are enough there.
FAMILIES_AND_WAYS = [
    (one, way) for one in FAMILIES for way in (WAYS if one in ("mixtral", "deepseek_v3") else WAYS[:1])
]


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
@pytest.mark.parametrize(("family", "way"), FAMILIES_AND_WAYS)
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


def test_contexts_pass_the_limits_that_they_should() -> None:
    """What YaRN stretches, what a chunk holds and what a window shows is all shorter than the longest context."""
    longest = max(len(prompt) for prompt in PROMPTS) + TOKENS
    assert YARN["original_max_position_embeddings"] < longest
    assert 2 * LLAMA4["attention_chunk_size"] < longest
    assert GPT_OSS["sliding_window"] < longest


# Not gpt_oss itself: with its weights transformers' own float32 is 2.7e-4 off its float64, more than is allowed here.
WEIGHED = [one for one in FAMILIES if one != "gpt_oss"]
WEIGHED += ["gpt-oss calm", "qwen3 unnormalized", "deepseek one group", "llama4 top-2"]


@pytest.mark.parametrize("variant", WEIGHED)
def test_experts_and_weights_equal_transformers(case: Callable[[str], Case], variant: str) -> None:
    spec, answers = case(variant).tiny.plan.spec, case(variant).answers[::2]
    with Mesh(case(variant).tiny.plan, 3) as mesh:
        outputs = mesh.generate([a.prompt for a in answers], greedy(len(answers[0].tokens)), return_routing=True)
    for events, answer in zip(outputs, answers, strict=True):
        positions = routing_of(events)
        assert len(answer.chosen) == len(spec.moe_layers)
        for number, layer in enumerate(spec.moe_layers):
            ours = [layers[number] for layers in positions]
            assert {routing.layer for routing in ours} == {layer}
            assert [routing.experts for routing in ours] == answer.experts(number)
            weights_TK = torch.tensor([routing.weights for routing in ours])
            torch.testing.assert_close(weights_TK, answer.chosen[number].weights, rtol=1e-4, atol=1e-6)
            assert [r.shards for r in ours] == [[shard_of(e, spec.gate.experts) for e in r.experts] for r in ours]


def shard_of(expert: int, experts: int) -> int:
    """Of three shards, where the first ones hold one expert more if it does not come out even."""
    sizes = [len(part) for part in torch.tensor_split(torch.arange(experts), 3)]
    return next(shard for shard in range(3) if expert < sum(sizes[: shard + 1]))


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
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_as_near_the_truth_as_transformers(
    tmp_path: Path, family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truth is float32 with the same weights, on the tokens that we drew.

    The median error of a position stays under a dozen roundings of the format, and no more than a quarter over
    transformers' own in that format. Not the largest: one expert chosen otherwise makes any error.
    """
    made, spy, count = make_tiny(tmp_path, family, dtype=dtype, **CALM.get(family, {})), LogitsSpy.on(monkeypatch), 32
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
    roundings, theirs_too = (torch.cat(one).median() / torch.finfo(dtype).eps for one in (ours, theirs))
    assert 0 < roundings < 12
    assert roundings < 1.25 * theirs_too


def logits_of(model: Any, ids: Tensor, count: int) -> Tensor:
    return oracle.forced(model, ids)[0][0, -count:].float()


def errors(logits_GV: Tensor, truth_GV: Tensor) -> Tensor:
    return (logits_GV - truth_GV).abs().amax(-1) / truth_GV.abs().amax(-1)

"""Checkpoints as transformers writes them and as their makers published them give the same logits and tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from router_service.models.families.llama4 import skipped_elements
from router_service.models.families.registry import plan_model
from tests.support import quantize
from tests.support.mesh import Mesh
from tests.support.tiny import COMMON, FAMILIES, LLAMA4, Tiny, make_tiny
from tests.unit.checkpoint.as_transformers import check

# What the makers' own config.json has that transformers' lacks, or has under another name.
PUBLISHED: dict[str, dict[str, Any]] = {
    "mixtral": {"head_dim": None},
    "qwen2_moe": {"num_local_experts": None, "num_experts": 7, "output_router_logits": False},
    "qwen3_moe": {"num_local_experts": None, "num_experts": 7},
    "olmoe": {"num_local_experts": None, "num_experts": 8, "head_dim": None},
    "deepseek_v3": {
        "num_local_experts": None, "n_routed_experts": 12, "head_dim": None, "scoring_func": "sigmoid", "ep_size": 1,
        "topk_method": "noaux_tc", "moe_layer_freq": 1, "num_nextn_predict_layers": 1, "rope_interleave": None,
        "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}, "num_mtp_layers": None,
    },
    "llama4": {"attn_temperature_tuning": 4, "no_rope_layers": [], "moe_layers": None},
    "gpt_oss": {"experts_per_token": 2, "initial_context_length": 16},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_makers_spelling_of_the_configuration(
    tiny: Callable[..., Tiny], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny(family)
    made.oracle.save_pretrained(tmp_path)
    quantize.publish_config(tmp_path, **PUBLISHED[family])
    assert plan_model(Checkpoint(tmp_path)).spec == made.plan.spec
    check(tmp_path, made.oracle, monkeypatch)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"])
def test_fused_experts(tiny: Callable[..., Tiny], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers holds them: one tensor for all experts' gate and up, one for their down."""
    made = tiny(family)
    made.oracle.save_pretrained(tmp_path)
    quantize.write_fused(tmp_path, made.oracle)
    assert any(name.endswith("experts.gate_up_proj") for name in Checkpoint(tmp_path).names)
    check(tmp_path, made.oracle, monkeypatch)


def test_kimi_k2_is_deepseek_v3_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_group = {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "routed_scaling_factor": 2.827}
    made = make_tiny(tmp_path, "deepseek_v3", **one_group)
    quantize.publish_config(tmp_path, **PUBLISHED["deepseek_v3"], model_type="kimi_k2", architectures=None)
    check(tmp_path, made.oracle, monkeypatch)


def test_prediction_layers_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSeek-V3 publishes a layer behind the last one, with an embedding and a head of its own."""
    made = make_tiny(tmp_path, "deepseek_v3")

    def add(tensors: dict[str, torch.Tensor]) -> None:
        last = "model.layers.2."
        tensors |= {n.replace(last, "model.layers.3."): t.clone() for n, t in tensors.items() if n.startswith(last)}
        tensors |= {f"model.layers.3.{n}.weight": torch.ones(48) for n in ("enorm", "hnorm", "shared_head.norm")}
        tensors |= {
            "model.layers.3.eh_proj.weight": torch.ones(48, 96),
            "model.layers.3.embed_tokens.weight": torch.ones(2),
        }

    quantize.change_tensors(tmp_path, add)
    plan = plan_model(Checkpoint(tmp_path))
    assert len(plan.notices) == 1
    assert "tensors of multi-token prediction are not used and not loaded" in plan.notices[0]
    check(tmp_path, made.oracle, monkeypatch)


BLOCKS = [(128, 128), (16, 16), (8, 32)]


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe"])
def test_fp8_blocks(
    tmp_path: Path, family: str, block: tuple[int, int], resident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny matrices are no multiples of a block; with blocks of 128 they are less than one."""
    made = make_tiny(tmp_path, family)
    quantize.write_fp8(tmp_path, made.oracle, block)
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
def test_fp8_matrices_larger_than_a_block(tmp_path: Path, resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 160, "moe_intermediate_size": 136, "kv_lora_rank": 130, "intermediate_size": 300}
    made = make_tiny(tmp_path, "deepseek_v3", initializer_range=0.15, **sizes)
    quantize.write_fp8(tmp_path, made.oracle, (128, 128))
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
def test_mxfp4(tmp_path: Path, resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_tiny(tmp_path, "gpt_oss")
    quantize.write_mxfp4(tmp_path, made.oracle)
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


def test_mxfp4_as_transformers_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file, dequantized by transformers itself."""
    made = make_tiny(tmp_path, "gpt_oss")
    quantize.write_mxfp4(tmp_path, made.oracle)
    theirs = transformers.GptOssForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=transformers.Mxfp4Config(dequantize=True)
    )
    check(tmp_path, theirs.eval(), monkeypatch, keep_packed=True)


def test_packed_experts_take_the_published_bytes(tmp_path: Path) -> None:
    made = make_tiny(tmp_path, "gpt_oss")
    quantize.write_mxfp4(tmp_path, made.oracle)
    plan = plan_model(Checkpoint(tmp_path))
    stored = {n: t.nbytes for n, t in load_file(tmp_path / "model.safetensors").items() if ".experts." in n}
    for packed in (True, False):
        with Mesh(plan, 2, keep_packed=packed) as mesh:
            held = sum(shard.weights_bytes for shard in mesh.servers.shards)
        floats = sum(p.nbytes for n, p in made.oracle.named_parameters() if ".experts." in n)
        assert held == (sum(stored.values()) if packed else floats)


@pytest.fixture
def multimodal(tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint with an image side, as published."""
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "vision_output_dim": 12, "image_size": 28, "patch_size": 14, "projector_input_dim": 12,
        "projector_output_dim": 12,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.Llama4Config(text_config={**COMMON, **LLAMA4}, vision_config=vision)
    model = transformers.Llama4ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model


@pytest.mark.parametrize("spelling", ["transformers", "published"])
def test_the_text_model_of_a_multimodal_checkpoint(
    multimodal: tuple[Path, Any], spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = multimodal
    if spelling == "published":
        quantize.publish_config(path)
    plan = plan_model(Checkpoint(path))
    images = sum(".language_model." not in f".{name}" for name in load_file(path / "model.safetensors"))
    assert plan.notices == (f"{path}: {images} tensors of vision are not used and not loaded",)
    check(path, model, monkeypatch)


def test_the_image_side_is_counted_from_the_configuration(multimodal: tuple[Path, Any]) -> None:
    path, model = multimodal
    counted = sum(p.numel() for n, p in model.named_parameters() if "language_model" not in n and "lm_head" not in n)
    assert skipped_elements(json.loads((path / "config.json").read_text())) == counted


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            {"quant_method": "bitsandbytes"},
            "quant_method is 'bitsandbytes', supported: 'fp8', ",
        ),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size is [128], FP8 needs"),
    ],
)
def test_other_quantizations_are_refused(tmp_path: Path, quantization: dict[str, Any], message: str) -> None:
    made = make_tiny(tmp_path, "deepseek_v3")
    quantize.change_config(made.path, quantization_config=quantization)
    with pytest.raises(CheckpointError, match=r"config\.json: quantization_config") as caught:
        plan_model(Checkpoint(made.path))
    assert message in str(caught.value)


def test_fp8_values_without_scales_are_refused(tmp_path: Path) -> None:
    made = make_tiny(tmp_path, "deepseek_v3")
    quantize.write_fp8(made.path, made.oracle, (128, 128))
    name = "model.layers.1.mlp.experts.4.up_proj.weight"
    tensors = load_file(made.path / "model.safetensors")
    del tensors[f"{name}_scale_inv"]
    save_file(tensors, made.path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"tensor {name} has dtype F8_E4M3, supported: F32, F16, BF16"):
        plan_model(Checkpoint(made.path))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax', supported: 'sigmoid'"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method is 'greedy', supported: 'noaux_tc'"),
        ("deepseek_v3", {"n_group": 5}, "n_group is 5, it must divide the 12 experts"),
        ("deepseek_v3", {"topk_group": 5}, "topk_group is 5, of 4 groups"),
        (
            "llama4",
            {"no_rope_layers": [1, 0]},
            "no_rope_layers is [1, 0], it must be a list with an item for each of the 4",
        ),
        ("gpt_oss", {"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], it must be a list"),
        ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act is 'gelu', supported: 'silu'"),
        ("olmoe", {"clip_qkv": "much"}, "clip_qkv is 'much', it must be a number"),
    ],
)
def test_variants_that_are_not_supported_are_refused(
    tiny: Callable[..., Tiny], tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    tiny(family).oracle.save_pretrained(tmp_path)
    quantize.change_config(tmp_path, **changes)
    with pytest.raises(CheckpointError) as caught:
        plan_model(Checkpoint(tmp_path))
    assert message in str(caught.value)

"""Checkpoints in INT4, as three publishers write them, give transformers' tokens on the values that they stand for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.planner.published_models import published_config
from cluster.planner.sizes import Kind, packable, published_dtype, stored_bytes, weights_bytes
from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from router_service.models.families.names import PublishedNames
from router_service.models.families.quantization.read import read_quantization
from router_service.models.families.registry import plan_model, read_model
from tests.support.int4_checkpoints import int4_config, pack_quantized_config, write_int4
from tests.support.mesh import load_shards
from tests.support.quantize import change_config, change_tensors, publish_config
from tests.support.tiny import make_config, make_tiny
from tests.support.wrong_values import check_refusal, spoiled
from tests.unit.checkpoint.as_transformers import check

WHERE = "somewhere/config.json"
RESIDENT = ["packed", "dequantized"]
VARIANTS: dict[str, dict[str, Any]] = {
    "symmetric": {},
    "zero points": {"zeros": True},
    "act-order": {"zeros": True, "shuffled": True},
}


@pytest.mark.parametrize("resident", RESIDENT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kimi_k2_thinking(tmp_path: Path, variant: str, resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, its configuration and experts alone in INT4; groups of 16 do not divide the 24 inputs of down."""
    one_group = {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "routed_scaling_factor": 2.827}
    made = make_tiny(tmp_path, "deepseek_v3", **one_group)
    write_int4(tmp_path, made.oracle, "compressed-tensors", 16, **VARIANTS[variant])
    named = {"num_local_experts": None, "n_routed_experts": 12, "head_dim": None, "rope_interleave": None}
    publish_config(tmp_path, **named, model_type="kimi_k2", architectures=None)
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


@pytest.mark.parametrize("resident", RESIDENT)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_gptq(tmp_path: Path, form: str, variant: str, resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_tiny(tmp_path, "qwen3_moe")
    write_int4(tmp_path, made.oracle, form, 8, **VARIANTS[variant])
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


def test_zero_biases_of_old_gptq_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of modules that have none; those that the family has are used: Qwen2's queries, keys and values."""
    made = make_tiny(tmp_path, "qwen2_moe")
    write_int4(tmp_path, made.oracle, "gptq", 8)
    change_tensors(
        tmp_path,
        lambda tensors: tensors.update(
            {
                name.replace("qweight", "bias"): torch.zeros(w.shape[1])
                for name, w in list(tensors.items())
                if name.endswith("mlp.experts.3.up_proj.qweight")
            }
        ),
    )
    assert [line.partition(": ")[2] for line in plan_model(Checkpoint(tmp_path)).notices] == [
        "2 tensors of biases that the model does not have, which old versions of AutoGPTQ wrote as zeros are not used "
        "and not loaded"
    ]
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


@pytest.mark.parametrize("resident", RESIDENT)
def test_awq(tmp_path: Path, resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_tiny(tmp_path, "qwen3_moe")
    write_int4(tmp_path, made.oracle, "awq", 8, zeros=True)
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


def test_a_scale_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWQ's group_size -1; modules that a list keeps stay as they were."""
    made = make_tiny(tmp_path, "qwen3_moe")
    write_int4(tmp_path, made.oracle, "awq", 1000, zeros=True)
    quantization = Checkpoint(tmp_path).config["quantization_config"]
    change_config(tmp_path, quantization_config=quantization | {"group_size": -1})
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


def test_modules_that_are_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a module is quantized its tensors say: here attention is not."""
    made = make_tiny(tmp_path, "qwen3_moe")
    plain = {name: w for name, w in load_file(tmp_path / "model.safetensors").items() if "self_attn" in name}
    attention = {name: w.clone() for name, w in made.oracle.state_dict().items() if "self_attn" in name}
    write_int4(tmp_path, made.oracle, "awq", 8, zeros=True)
    made.oracle.load_state_dict(attention, strict=False)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "self_attn" in name]:
            del tensors[name]
        tensors |= plain

    change_tensors(tmp_path, change)
    quantization = Checkpoint(tmp_path).config["quantization_config"]
    change_config(tmp_path, quantization_config=quantization | {"modules_to_not_convert": ["self_attn"]})
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


def test_packed_experts_take_the_published_bytes(tmp_path: Path) -> None:
    """But for the shapes, which are not kept."""
    made = make_tiny(tmp_path, "deepseek_v3")
    write_int4(tmp_path, made.oracle, "compressed-tensors", 8)
    stored = load_file(tmp_path / "model.safetensors")
    wanted = sum(t.nbytes for n, t in stored.items() if ".experts." in n and not n.endswith("_shape"))
    shards = load_shards(plan_model(Checkpoint(tmp_path)), 2, keep_packed=True, backend="cpu")
    assert sum(shard.weights_bytes for shard in shards) == wanted
    held = [
        w
        for shard in shards
        for layer in shard.snapshot.values()
        for w in (*layer.weights.gate_up, *layer.weights.down)
    ]
    assert sum(w.nbytes for w in held) == wanted


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (GPTQ | {"bits": 8}, "bits is 8, only 4 bits of GPTQ are supported: take a 4-bit or an FP8 checkpoint"),
        (GPTQ | {"bits": None}, "bits is None, only 4 bits"),
        (GPTQ | {"bits": True}, "bits is True, only 4 bits"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin', supported: 'gptq', 'gptq_v2'"),
        (GPTQ | {"format": "bitblas"}, "format is 'bitblas', supported"),
        (GPTQ | {"is_marlin_format": True}, "is_marlin_format is True, Marlin's layout is not supported"),
        (GPTQ | {"group_size": 0}, "group_size is 0, it must be a number of inputs, or -1 for a whole row"),
        (GPTQ | {"group_size": "all"}, "group_size is 'all', it must be an integer"),
        (GPTQ | {"desc_act": "yes"}, "desc_act is 'yes', it must be true or false"),
        (GPTQ | {"pack_dtype": "int64"}, "pack_dtype is 'int64', supported: 'int32'"),
        (GPTQ | {"dynamic": {"+:.*down.*": {"bits": 8}}}, "modules of other bits or groups are not supported"),
        (AWQ | {"bits": 8}, "bits is 8, only 4 bits of AWQ are supported"),
        (AWQ | {"version": "gemv"}, "version is 'gemv', supported: 'gemm'"),
        (AWQ | {"zero_point": False}, "zero_point is False, AWQ without zero points is not supported"),
        (AWQ | {"modules_to_not_convert": "gate"}, "modules_to_not_convert is 'gate', it must be a list"),
        (pack_quantized_config(32, num_bits=8), "weights.num_bits is 8, only 4 bits of pack-quantized are supported"),
        (pack_quantized_config(32, type="float"), "weights.type is 'float', supported: 'int'"),
        (pack_quantized_config(32, strategy="block"), "weights.strategy is 'block', supported: 'group', 'channel'"),
        (pack_quantized_config(32, group_size=None), "weights.group_size is None, it must be a number of inputs"),
        (pack_quantized_config(32, dynamic=True), "weights.dynamic is True, scales of weights must be stored"),
        (pack_quantized_config(32, actorder="random"), "weights.actorder is 'random', supported: null, 'weight'"),
        (pack_quantized_config(32, symmetric="no"), "weights.symmetric is 'no', it must be true or false"),
    ],
)
def test_other_variants_are_refused(tmp_path: Path, quantization: dict[str, Any], message: str) -> None:
    made = make_tiny(tmp_path, "qwen3_moe")
    change_config(made.path, quantization_config=quantization)
    with pytest.raises(CheckpointError, match=r"config\.json: quantization_config\.") as caught:
        plan_model(Checkpoint(made.path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "quantization",
    [
        GPTQ | {"dynamic": {"-:.*attn.*": {}}, "format": "gptq", "is_marlin_format": False},
        GPTQ | {"checkpoint_format": "GPTQ_V2", "desc_act": True},
        AWQ | {"version": "GEMM", "modules_to_not_convert": None},
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 64},
        pack_quantized_config(32, actorder="static", strategy="channel", group_size=None),
        pack_quantized_config(32, actorder=False),
    ],
    ids=str,
)
def test_spellings_that_mean_what_is_supported(tmp_path: Path, quantization: dict[str, Any]) -> None:
    """The checkpoint itself is in floats, which no list needs to say."""
    made = make_tiny(tmp_path, "qwen3_moe")
    change_config(made.path, quantization_config=quantization)
    assert not plan_model(Checkpoint(made.path)).tensors.experts.encoded


@pytest.mark.parametrize("form", ["compressed-tensors", "gptq", "awq"])
def test_any_value_is_read_or_refused(form: str) -> None:
    whole = {"architectures": ["Qwen3MoeForCausalLM"], **make_config("qwen3_moe").to_dict()}
    refused = 0
    for case in spoiled({"quantization_config": int4_config(form, 16)}):
        config = whole | case.config
        try:
            _, tensors = read_model(config, WHERE, PublishedNames(read_quantization(config, WHERE)))
            assert weights_bytes(tensors, torch.bfloat16, packable(tensors)) > 0
        except CheckpointError as error:
            check_refusal(error, case, WHERE)
            refused += 1
    assert refused > 40


def test_the_size_of_kimi_k2_thinking() -> None:
    """Published as 594 GB: experts in INT4, all else in bfloat16."""
    config, _ = published_config("kimi-k2")
    config |= {"quantization_config": pack_quantized_config(32)}
    spec, tensors = read_model(config, WHERE, PublishedNames(read_quantization(config, WHERE)))
    assert tensors.experts.encoded
    assert tensors.experts.bytes_per_expert(torch.bfloat16, packed=True) == 3 * 7168 * 2048 * 9 // 16
    assert not any(source.encoded for source in tensors.router.values())
    stored = stored_bytes(tensors, lambda tensor: published_dtype(spec, tensor))
    assert sum(sum(by_dtype.values()) for by_dtype in stored.values()) == pytest.approx(594e9, rel=0.005)
    assert stored[Kind.EXPERTS].keys() == {"I32", "BF16"} | {"I64"}


def test_a_matrix_that_does_not_fit_is_named(tmp_path: Path) -> None:
    made = make_tiny(tmp_path, "qwen3_moe")
    write_int4(tmp_path, made.oracle, "gptq", 8, shuffled=True)
    name = "model.layers.0.mlp.experts.3.up_proj"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{name}.g_idx"].zero_()

    change_tensors(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"matrix {name}\.weight: g_idx must give each of 6 groups 8 inputs"):
        load_shards(plan_model(Checkpoint(tmp_path)), 2, keep_packed=True)


def test_a_missing_scale_is_named(tmp_path: Path) -> None:
    made = make_tiny(tmp_path, "qwen3_moe")
    write_int4(tmp_path, made.oracle, "awq", 8)
    change_tensors(tmp_path, lambda tensors: tensors.pop("model.layers.2.mlp.experts.6.down_proj.scales"))
    with pytest.raises(CheckpointError, match=r"missing tensor model\.layers\.2\.mlp\.experts\.6\.down_proj\.scales"):
        plan_model(Checkpoint(tmp_path))

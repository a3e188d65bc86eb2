"""quantization_config: what each method's keys mean, and what is refused, with key, value and what is supported."""

import copy
from typing import Any

import pytest
import torch

from cluster.planner.sizes import packable, weights_bytes
from experts.checkpoint.encodings import nvfp4
from experts.checkpoint.encodings.block_fp8 import BlockFp8Encoding
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.scaled import ScaledEncoding
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_reader import JsonReader
from kernels.formats.scaled import Int8Channel, ScaledFp8
from router_service.models.families.names import PublishedNames
from router_service.models.families.quantization.quantization import Quantization
from router_service.models.families.quantization.read import read_quantization
from router_service.models.families.registry import read_model
from tests.support.formats import BLOCK, FORMATS, compressed, modelopt
from tests.support.tiny import make_config
from tests.support.wrong_values import check_refusal, spoiled

WHERE = "somewhere/config.json"
DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"
ENCODINGS: dict[str, Encoding] = {
    "fp8-channel": ScaledEncoding(ScaledFp8, per_tensor=False),
    "fp8-tensor": ScaledEncoding(ScaledFp8, per_tensor=True),
    "fp8-block": BlockFp8Encoding(BLOCK, "_scale"),
    "int8": ScaledEncoding(Int8Channel, per_tensor=False),
    "nvfp4": nvfp4.COMPRESSED_TENSORS,
    "modelopt-fp8": ScaledEncoding(ScaledFp8, per_tensor=True),
    "modelopt-fp8-channel": ScaledEncoding(ScaledFp8, per_tensor=False),
    "modelopt-nvfp4": nvfp4.MODELOPT,
    "autofp8": ScaledEncoding(ScaledFp8, per_tensor=True),
}


def read(written: Any, beside: dict[str, Any] | None = None) -> Quantization:
    other = JsonReader(beside or {}, "somewhere/hf_quant_config.json")
    return read_quantization({"quantization_config": written}, WHERE, other)


def changed(form: str, **weights: Any) -> dict[str, Any]:
    """A format's configuration with other `weights` in its group."""
    config = copy.deepcopy(FORMATS[form].config)
    config["config_groups"]["group_0"]["weights"] |= weights
    return config


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_recognized(form: str) -> None:
    found = read(FORMATS[form].config)
    assert found.encodings(DOWN)[0] == ENCODINGS[form]
    assert not found.plain(DOWN)
    assert found.plain("lm_head.weight")


@pytest.mark.parametrize("form", FORMATS)
def test_any_value_is_read_or_refused(form: str) -> None:
    whole = {"architectures": ["Qwen3MoeForCausalLM"], **make_config("qwen3_moe").to_dict()}
    refused = 0
    for case in spoiled({"quantization_config": FORMATS[form].config}):
        config = whole | case.config
        try:
            _, tensors = read_model(config, WHERE, PublishedNames(read_quantization(config, WHERE)))
            assert weights_bytes(tensors, torch.bfloat16, packable(tensors)) > 0
        except CheckpointError as error:
            check_refusal(error, case, WHERE)
            refused += 1
    assert refused > 40


def test_strategies_that_are_not_said_follow_from_the_size_of_a_group() -> None:
    assert read(changed("fp8-tensor", strategy=None)).encodings(DOWN) == (ENCODINGS["fp8-tensor"],)
    assert read(changed("fp8-channel", strategy=None, group_size=-1)).encodings(DOWN) == (ENCODINGS["fp8-channel"],)


def test_an_order_of_columns_that_changes_nothing_stored_is_read() -> None:
    assert read(changed("int8", actorder="static")).encodings(DOWN) == (ENCODINGS["int8"],)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (compressed("marlin-24", {}), "format is 'marlin-24', supported: 'float-quantized', "),
    (changed("fp8-channel", strategy="group"), "weights.strategy is 'group', supported: 'channel', 'tensor', 'block'"),
    (changed("fp8-channel", strategy=None, group_size=64), "weights.strategy is None, group_size 64 means 'group', "),
    (changed("fp8-channel", num_bits=4), "weights.num_bits is 4, supported: 8"),
    (changed("fp8-channel", type="int"), "weights.type is 'int', supported: 'float'"),
    (changed("fp8-channel", dynamic=True), "weights.dynamic is True, supported: False"),
    (changed("fp8-block", block_structure="16x32"), "weights.block_structure is '16x32', FP8 needs two positive"),
    (changed("int8", symmetric=False), "weights.symmetric is False, supported: True"),
    (changed("int8", actorder="group"), "weights.actorder is 'group', supported: None, False, 'weight', 'static'"),
    (changed("nvfp4", group_size=32), "weights.group_size is 32, supported: 16"),
    (changed("nvfp4", group_size=None), "weights.group_size is None, supported: 16"),
    (compressed("int-quantized", {}, config_groups={}), "config_groups is {}, a group must have weights"),
    (compressed("int-quantized", {}, sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config.format is "),
    (compressed("int-quantized", {}, transform_config={"config_groups": {"R1": {}}}), "transform_config is {"),
    (compressed("int-quantized", {}, quantization_status="calibration"), "quantization_status is 'calibration', "),
    (compressed("int-quantized", {}, kv_cache_scheme="FP8"), "kv_cache_scheme is 'FP8', it must be an object"),
    (compressed("int-quantized", {}, ignore=["re:("]), "ignore is 're:(', it must be a regular expression: "),
    (compressed("int-quantized", {}, ignore=["re:(.|.)*x"]), "ignore is 're:(.|.)*x', a pattern may have "),
    (compressed("int-quantized", {}, ignore=["re:" + 5 * ".*a"]), "a pattern may have 1000 characters, 4 of * + {"),
    (compressed("int-quantized", {}, ignore=["re:" + "a" * 1000]), "a pattern may have 1000 characters, "),
    (modelopt("NVFP4_AWQ"), "quant_algo is 'NVFP4_AWQ', supported: 'FP8', 'FP8_PER_CHANNEL_PER_TOKEN', 'NVFP4', "),
    (modelopt("MIXED_PRECISION"), "quantized_layers is {}, MIXED_PRECISION needs the modules and their algorithms"),
    (
        modelopt("MIXED_PRECISION", quantized_layers={"a.b": {"quant_algo": "W4A8_AWQ"}}),
        "quantized_layers.a.b.quant_algo is 'W4A8_AWQ', supported: 'FP8', ",
    ),
    (modelopt("NVFP4", group_size=32), "group_size is 32, supported: 16"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size is [128], FP8 needs two positive numbers"),
    ({"quant_method": "quark"}, "quant_method is 'quark', supported: 'fp8', 'compressed-tensors', "),
]


@pytest.mark.parametrize(("written", "message"), REFUSED, ids=str)
def test_what_is_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(written)
    said = str(caught.value)
    assert said.startswith(f"{WHERE}: quantization_config.")
    assert message in said


def test_lists_of_modules() -> None:
    ignore = [
        "model.layers.0",
        "re:.*experts\\.[02]\\..*",
        "shared_expert",
        "*.layers.3.*",
        "q_proj",
        "model.layers.1.mlp.gate",
    ]
    plain = read(compressed("int-quantized", {"strategy": "channel"}, ignore=ignore)).plain
    for name in (
        "model.layers.0.mlp.up_proj", "model.layers.1.mlp.experts.2.up_proj", "model.layers.1.mlp.shared_expert",
        "model.layers.3.mlp.down_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.gate",
    ):  # fmt: skip
        assert plain(f"{name}.weight"), name
    for name in (
        "model.layers.10.mlp.up_proj", "model.layers.1.mlp.experts.12.up_proj", "model.layers.1.self_attn.kq_proj",
        "model.layers.1.mlp.gate_proj", "lm_head",
    ):  # fmt: skip
        assert not plain(f"{name}.weight"), name


def test_groups_by_name_come_before_groups_by_class() -> None:
    written = compressed("mixed-precision", {})
    written["config_groups"] = {
        "group_0": {
            "targets": ["Linear"],
            "format": "float-quantized",
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
        },
        "group_1": {
            "targets": ["re:.*\\.experts\\..*"],
            "format": "nvfp4-pack-quantized",
            "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        },
        "group_2": {"targets": ["Attention"], "input_activations": {"num_bits": 8, "type": "float"}},
    }
    found = read(written)
    assert found.encodings(DOWN) == (nvfp4.COMPRESSED_TENSORS,)
    assert found.encodings("model.layers.0.self_attn.o_proj.weight") == (ENCODINGS["fp8-channel"],)


def test_the_section_of_a_multimodal_model() -> None:
    config = {"text_config": {"quantization_config": FORMATS["int8"].config}}
    assert read_quantization(config, WHERE).encodings(DOWN) == (ENCODINGS["int8"],)


HF_QUANT = {
    "producer": {"name": "modelopt", "version": "0.23.0"},
    "quantization": {
        "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"],
    },
}  # fmt: skip


def test_modelopts_own_file_counts_where_config_json_says_nothing() -> None:
    found = read({}, HF_QUANT)
    assert found.encodings(DOWN) == (nvfp4.MODELOPT,)
    assert found.plain("lm_head.weight")
    assert read(FORMATS["int8"].config, HF_QUANT).encodings(DOWN) == (ENCODINGS["int8"],)
    with pytest.raises(CheckpointError, match=r"hf_quant_config\.json: quantization\.quant_algo is 'W4A16_AWQ'"):
        read({}, {"quantization": {"quant_algo": "W4A16_AWQ"}})


def test_each_module_may_have_an_algorithm_of_its_own() -> None:
    layers = {
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        DOWN.removesuffix(".weight"): {"quant_algo": "NVFP4", "group_size": 16},
    }
    found = read(modelopt("MIXED_PRECISION", quantized_layers=layers))
    assert found.encodings(DOWN) == (nvfp4.MODELOPT, ENCODINGS["modelopt-fp8"])
    assert not found.plain(DOWN)
    assert found.plain("model.layers.0.self_attn.k_proj.weight")


def test_any_value_of_modelopts_own_file() -> None:
    refused = 0
    for case in spoiled(HF_QUANT):
        try:
            assert read({}, case.config).encodings(DOWN)
        except CheckpointError as error:
            check_refusal(error, case, "somewhere/hf_quant_config.json")
            refused += 1
    assert refused > 40


def test_what_is_not_applied_is_said_once() -> None:
    assert read(FORMATS["int8"].config).notices == ()
    activations = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
    written = changed("fp8-channel")
    written["config_groups"]["group_0"]["input_activations"] = activations
    said = read(written | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}).notices
    assert len(said) == 2
    assert "input_activations is not applied" in said[0]
    assert "kv_cache_scheme is not applied: the KV cache has the model's dtype" in said[1]
    said = read({}, HF_QUANT).notices
    assert "quantization.quant_algo NVFP4 is applied to weights only" in said[0]
    assert "quantization.kv_cache_quant_algo is not applied" in said[1]

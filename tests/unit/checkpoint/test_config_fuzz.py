"""Any value of config.json may be any other: it is understood, or refused in a line that names file and key."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.cli.tools.inspect_text import render
from cluster.config import ClusterConfig
from cluster.planner.config_resolver import forms_of
from cluster.planner.inspected_model import InspectedModel
from cluster.planner.inspection import inspect
from cluster.planner.memory_plan import Room
from cluster.planner.model import dtype_of
from cluster.planner.sizes import stored_bytes
from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from router_service.models.attention.rope import frequencies
from router_service.models.families.config_reader import MAX_EXPERTS, MAX_LAYERS
from router_service.models.families.names import PublishedNames
from router_service.models.families.quantization.read import read_quantization
from router_service.models.families.registry import plan_model, read_model
from router_service.models.spec import ModelSpec, TensorMap
from tests.support.formats import FORMATS
from tests.support.quantize import change_config
from tests.support.tiny import FAMILIES, GPT_OSS, LLAMA4, YARN, Tiny, make_config
from tests.support.wrong_values import check_refusal, spoiled

WHERE = "somewhere/config.json"
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
OLD_YARN = {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": YARN | {"truncate": True}}
TEXT = LLAMA4 | {"vocab_size": 260, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
# Name: family, and what its configuration has besides.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # transformers writes a window of 0 where none is used.
    **{family: (family, {"sliding_window": None} if family == "qwen2_moe" else {}) for family in FAMILIES},
    "fp8": ("deepseek_v3", FP8 | OLD_YARN),
    "int8": ("mixtral", {"quantization_config": FORMATS["int8"].config}),
    "nvfp4": ("deepseek_v3", {"quantization_config": FORMATS["modelopt-nvfp4"].config}),
    "windows": ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 8, "layer_types": None}),
    "mxfp4": ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4"}, "layer_types": None}),
    "text_config": ("llama4", {"text_config": TEXT, "eos_token_id": [1, 2]}),
    "temperature": ("llama4", {"attn_temperature_tuning": 4, "no_rope_layers": [1, 1, 1, 0], "moe_layers": [1, 3]}),
    "clipped": ("olmoe", {"clip_qkv": 8.0, "torch_dtype": "bfloat16", "dtype": None}),
}


@cache
def config_of(variant: str) -> dict[str, Any]:
    """What config.json of a variant holds."""
    family, changes = VARIANTS[variant]
    written: dict[str, Any] = json.loads(make_config(family).to_json_string(use_diff=False))
    return written | {"eos_token_id": 7} | changes


def read(config: dict[str, Any]) -> tuple[ModelSpec, TensorMap]:
    return read_model(config, WHERE, PublishedNames(read_quantization(config, WHERE)))


def size_up(spec: ModelSpec, tensors: TensorMap) -> None:
    """Do with a spec what `inspect` does, and what a router does before it has weights."""
    assert spec.layers <= MAX_LAYERS
    assert spec.gate.experts <= MAX_EXPERTS
    frequencies(spec.rope)
    dtype, config = dtype_of("auto", spec.dtype, WHERE), ClusterConfig()
    inspected = InspectedModel(
        name="x",
        where=WHERE,
        published=False,
        spec=spec,
        tensors=tensors,
        stored=stored_bytes(tensors, lambda stored: stored.dtypes[0]),
    )
    forms = forms_of(spec, tensors, dtype, False, config.router, config.cluster.routers)
    assert render(inspect(inspected, dtype, 1, forms, Room(1 << 40, True, "here")))


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_value_of_the_configuration(variant: str) -> None:
    whole = config_of(variant)
    seen = {read(whole)[0]}
    size_up(*read(whole))
    refused = 0
    for case in spoiled(whole):
        try:
            spec, tensors = read(case.config)
            # Many values change nothing.
            if spec not in seen:
                size_up(spec, tensors)
                seen.add(spec)
        except CheckpointError as error:
            check_refusal(error, case, WHERE)
            refused += 1
    assert refused > 200


# What is refused, and what is said of it.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mixtral", {"rope_parameters": "yarn"}, "rope_parameters is 'yarn', it must be an object"),
    ("mixtral", {"rope_parameters": None, "rope_scaling": "yarn"}, "rope_scaling is 'yarn', it must be an object"),
    ("mixtral", {"rope_theta": "1e4"}, "rope_theta is '1e4', it must be a number above 1 and up to 1e+15"),
    ("deepseek_v3", {"quantization_config": "fp8"}, "quantization_config is 'fp8', it must be an object"),
    ("deepseek_v3", {"first_k_dense_replace": "3"}, "first_k_dense_replace is '3', it must be an integer, 0 to "),
    ("mixtral", {"sliding_window": "4096"}, "sliding_window is '4096', it must be a positive integer"),
    ("qwen3_moe", {"mlp_only_layers": 3}, "mlp_only_layers is 3, it must be a list of integers from 0 on"),
    ("qwen3_moe", {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes', it must be true or false"),
    ("qwen3_moe", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1, it must be true or false"),
    ("qwen3_moe", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, it must be a positive integer up to"),
    ("qwen3_moe", {"hidden_size": -1}, "hidden_size is -1, it must be a positive integer"),
    ("qwen3_moe", {"num_experts": 0, "num_local_experts": None}, "num_experts is 0, it must be a positive integer"),
    ("qwen3_moe", {"num_experts_per_tok": 8}, "num_experts_per_tok is 8, it must be at most num_local_experts, 7"),
    ("qwen3_moe", {"num_attention_heads": 3}, "num_key_value_heads is 2, it must divide num_attention_heads, 3"),
    ("mixtral", {"num_attention_heads": 10, "head_dim": None}, "num_attention_heads is 10, without a head_dim it must"),
    ("mixtral", {"num_local_experts": True}, "num_local_experts is True, it must be a positive integer"),
    ("mixtral", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, it must be a number from 0 to 1"),
    ("mixtral", {"max_position_embeddings": 1e3}, "max_position_embeddings is 1000.0, it must be a positive integer"),
    ("gpt_oss", {"layer_types": ["linear_attention"] * 4}, "layer_types[0] is 'linear_attention', supported: "),
    ("gpt_oss", {"architectures": "GptOssForCausalLM"}, "architectures is 'GptOssForCausalLM', it must be a list of"),
    ("llama4", {"text_config": {"hidden_size": []}}, "text_config.hidden_size is [], it must be a positive integer"),
    (
        "llama4",
        {"text_config": {"rope_parameters": {"rope_type": 3}}},
        "text_config.rope_parameters.rope_type is 3, supported: 'default', ",
    ),
]


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED, ids=str)
def test_what_is_said(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(config_of(family) | changes)
    assert str(caught.value).startswith(f"{WHERE}: {message}")


@pytest.mark.parametrize("key", ["sliding_window", "rope_scaling", "rope_theta", "quantization_config", "text_config"])
def test_null_counts_as_unset(key: str) -> None:
    config = {k: v for k, v in config_of("mixtral").items() if k != key}
    assert read(config | {key: None})[0] == read(config)[0]


def test_a_kind_of_rope_may_be_unset() -> None:
    config = config_of("gpt_oss")
    unset = read(config | {"rope_parameters": GPT_OSS["rope_parameters"] | {"rope_type": None}})[0]
    assert unset.rope == replace(read(config)[0].rope, kind="default", scaling=())


@pytest.mark.parametrize("command", ["inspect", "serve"])
def test_commands_say_it_in_one_line(
    tiny: Callable[..., Tiny], command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny("mixtral").oracle.save_pretrained(tmp_path)
    change_config(tmp_path, rope_parameters="yarn")
    ports = ["--grpc-port", "0", "--metrics-port", "0"] if command == "serve" else []
    assert main([command, str(tmp_path), *ports]) == 2
    message = f"expertmesh: {tmp_path / 'config.json'}: rope_parameters is 'yarn', it must be an object\n"
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert [line for line in lines if "expertmesh: starting " not in line] == [message]


def test_a_checkpoint_is_refused_whatever_its_sizes(tiny: Callable[..., Tiny]) -> None:
    """What the weights contradict is said of the weights; no other error comes of it."""
    checkpoint = Checkpoint(tiny("mixtral").path)
    whole = checkpoint.config
    said = set()
    for case in spoiled(whole):
        checkpoint.config = case.config
        try:
            plan_model(checkpoint)
        except CheckpointError as error:
            said.add(str(error))
    assert len(said) > 100
    assert all(message.isprintable() for message in said)


def test_the_front_reads_without_torch() -> None:
    code = "import sys, router_service.text.text_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0

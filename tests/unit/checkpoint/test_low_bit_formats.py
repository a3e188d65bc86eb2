"""FP8, INT8 and NVFP4 as llm-compressor and ModelOpt publish them, packed and dequantized, against transformers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.encodings.nvfp4 import MODELOPT
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.packer import Packer
from experts.checkpoint.source import Part, stacked
from kernels import select
from router_service.models.families.registry import plan_model
from tests.support import quantize
from tests.support.formats import FORMATS, modelopt, write_format
from tests.support.mesh import Mesh
from tests.support.tiny import Tiny, make_tiny
from tests.unit.checkpoint.as_transformers import check

# NVFP4 has whole groups of 16 inputs only; the other formats are tried on odd sizes.
SIXTEENS = {
    "qwen3_moe": {"moe_intermediate_size": 32, "intermediate_size": 64},
    "deepseek_v3": {
        "q_lora_rank": 32, "kv_lora_rank": 32, "v_head_dim": 12, "moe_intermediate_size": 32, "intermediate_size": 64,
    },
}  # fmt: skip
CASES = [
    (form, family)
    for form in FORMATS
    for family in ("qwen3_moe", "deepseek_v3")
    # One family is enough for formats that differ in names only.
    if family == "qwen3_moe" or form in ("fp8-channel", "int8", "nvfp4", "modelopt-nvfp4")
]


def make(path: Path, family: str, form: str) -> Tiny:
    return make_tiny(path, family, **(SIXTEENS[family] if "nvfp4" in form else {}))


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
@pytest.mark.parametrize(("form", "family"), CASES)
def test_every_format(tmp_path: Path, family: str, form: str, resident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, family, form)
    write_format(tmp_path, made.oracle, FORMATS[form])
    check(tmp_path, made.oracle, monkeypatch, keep_packed=resident == "packed")


@pytest.mark.parametrize("form", ["fp8-channel", "nvfp4", "modelopt-fp8"])
def test_a_quantized_head(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "qwen3_moe", form)
    write_format(tmp_path, made.oracle, FORMATS[form], lambda name: "_proj" in name or name == "lm_head.weight")
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


@pytest.mark.parametrize("form", [None, "fp8-channel"])
def test_llama_4_with_its_experts_apart(tmp_path: Path, form: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_tiny(tmp_path, "llama4")
    quantize.write_apart(tmp_path)
    if form is not None:
        write_format(tmp_path, made.oracle, FORMATS[form])
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


def test_modules_that_stay_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "qwen3_moe", "int8")
    experts_only = [
        name for name, _ in made.oracle.named_modules() if name.endswith("_proj") and ".experts." not in name
    ]
    config = FORMATS["int8"].config | {"ignore": experts_only}
    write_format(tmp_path, made.oracle, replace(FORMATS["int8"], config=config), lambda name: ".experts." in name)
    assert not plan_model(Checkpoint(tmp_path)).tensors.router["0.qkv"].encoded
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


def test_modelopts_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "qwen3_moe", "modelopt-nvfp4")
    write_format(tmp_path, made.oracle, FORMATS["modelopt-nvfp4"])
    quantize.change_config(tmp_path, quantization_config=None)
    written = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(written))
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


def test_modelopts_mixed_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "qwen3_moe", "modelopt-nvfp4")
    fp8, fp4 = FORMATS["modelopt-fp8"], FORMATS["modelopt-nvfp4"]
    write_format(tmp_path, made.oracle, fp4, lambda name: ".experts." in name)
    write_format(tmp_path, made.oracle, fp8, lambda name: "self_attn" in name and "_proj" in name)
    modules = [
        name.removesuffix(".weight_scale") for name in Checkpoint(tmp_path).names if name.endswith("weight_scale")
    ]
    layers = {name: {"quant_algo": "NVFP4" if ".experts." in name else "FP8"} for name in modules}
    written = modelopt("MIXED_PRECISION", quantized_layers=layers)
    quantize.change_config(tmp_path, quantization_config=written)
    check(tmp_path, made.oracle, monkeypatch, keep_packed=True)


def test_scales_of_activations_and_of_the_cache_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "qwen3_moe", "modelopt-fp8")
    write_format(tmp_path, made.oracle, FORMATS["modelopt-fp8"], input_scale=torch.tensor(0.5), k_scale=torch.ones(1))
    matrices = sum(name.endswith(".weight_scale") for name in Checkpoint(tmp_path).names)
    weights_only, *rest = plan_model(Checkpoint(tmp_path)).notices
    assert "quantization_config.quant_algo FP8 is applied to weights only" in weights_only
    assert sorted(rest) == [
        f"{tmp_path}: {matrices} tensors of {what} are not used and not loaded"
        for what in ("KV cache scales", "activation scales")
    ]
    check(tmp_path, made.oracle, monkeypatch)


@pytest.mark.parametrize("form", ["fp8-channel", "modelopt-fp8", "int8", "nvfp4", "modelopt-nvfp4"])
def test_packed_experts_take_the_published_bytes(tmp_path: Path, form: str) -> None:
    made = make(tmp_path, "qwen3_moe", form)
    write_format(tmp_path, made.oracle, FORMATS[form])
    stored = {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if ".experts." in n}
    # Scales of outputs are published in bfloat16 and kept in float32.
    published = sum(t.numel() * max(t.itemsize, 4 if t.dtype is torch.bfloat16 else 1) for t in stored.values())
    plan = plan_model(Checkpoint(tmp_path))
    with Mesh(plan, 2, keep_packed=True) as mesh:
        assert sum(shard.weights_bytes for shard in mesh.servers.shards) == published
    planned = plan.tensors.experts.bytes_per_expert(torch.float32, packed=True)
    assert planned * len(plan.spec.moe_layers) * plan.spec.gate.experts == published


def lacks(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.0.mlp.experts.4.up_proj.weight_scale"]


def one_scale(tensors: dict[str, Any]) -> None:
    name = "model.layers.0.mlp.experts.4.up_proj.weight_scale"
    tensors[name] = tensors[name][:1]


def quantized_gate(tensors: dict[str, Any]) -> None:
    name = "model.layers.0.mlp.gate.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def zero_points(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.mlp.experts.4.up_proj.weight_zero_point"] = torch.zeros(24, 1, dtype=torch.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacks, "tensor model.layers.0.mlp.experts.4.up_proj.weight has dtype F8_E4M3, supported: F32, F16, BF16"),
        (one_scale, "up_proj.weight_scale has shape [1, 1], config.json implies [24, 1]"),
        (quantized_gate, "tensor model.layers.0.mlp.gate.weight has dtype F8_E4M3, supported: F32, F16, BF16"),
        (zero_points, "unexpected tensor model.layers.0.mlp.experts.4.up_proj.weight_zero_point"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    made = make(tmp_path, "qwen3_moe", "fp8-channel")
    write_format(tmp_path, made.oracle, FORMATS["fp8-channel"])
    quantize.change_tensors(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        plan_model(Checkpoint(tmp_path))
    assert message in str(caught.value)


def test_rows_of_no_whole_groups_are_refused(tmp_path: Path) -> None:
    """A publisher cannot have written them, but a file may hold them."""
    scales = {"w.weight_scale": torch.ones(3, 3).to(torch.float8_e4m3fn), "w.weight_scale_2": torch.tensor(1.0)}
    save_file({"w.weight": torch.zeros(3, 20, dtype=torch.uint8)} | scales, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    ops, cpu = select.ops("auto", torch.device("cpu")), torch.device("cpu")
    packer = Packer(Checkpoint(tmp_path), ops, torch.bfloat16, cpu, keep_packed=True, progress=lambda _: None)
    with pytest.raises(CheckpointError, match=r"matrix w\.weight: NVFP4 rows are whole groups of 16, got 40 columns"):
        packer.read_matrix(stacked(Part("w.weight", (3, 40), encoding=MODELOPT)))

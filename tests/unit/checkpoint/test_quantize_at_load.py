"""`weights.quantize`: what is computed is what transformers computes with the rounded weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cluster.planner.quantize import quantized, rounding_of
from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from experts.config import WeightsConfig
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.quantized import RowStack
from router_service.models.families.registry import ModelPlan, plan_model
from tests.support.int4_checkpoints import write_int4
from tests.support.mesh import load_shards
from tests.support.quantize import change_tensors, set_weights, write_fp8, write_mxfp4
from tests.support.tiny import Tiny, make_tiny
from tests.unit.checkpoint.as_transformers import check

INT4 = WeightsConfig("dequantized", "int4")
INT8 = WeightsConfig("dequantized", "int8")
SEPARATE = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"]


def planned(path: Path, weights: WeightsConfig) -> ModelPlan:
    plan = plan_model(Checkpoint(path))
    return replace(plan, tensors=quantized(plan.tensors, weights, str(path)))


def rounded(path: Path, weights: WeightsConfig, chosen: Callable[[str], bool]) -> dict[str, Tensor]:
    """The matrices of a checkpoint of separate experts, rounded one by one."""
    rounding = rounding_of(weights)
    assert rounding is not None
    stored = {name: w for name, w in load_file(path / "model.safetensors").items() if name.endswith(".weight")}
    experts = {name: w for name, w in stored.items() if ".experts." in name}
    dense = {name: w.float() for name, w in experts.items()}
    return dense | {name: rounding.of(w).dense() for name, w in stored.items() if chosen(name)}


@pytest.mark.parametrize("weights", [INT4, INT8, replace(INT4, quantize_group=128)], ids=lambda w: str(rounding_of(w)))
@pytest.mark.parametrize("family", SEPARATE)
def test_experts(tmp_path: Path, family: str, weights: WeightsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_tiny(tmp_path, family)
    set_weights(made.oracle, by_our_names(rounded(tmp_path, weights, lambda name: ".experts." in name)))
    check(tmp_path, made.oracle, monkeypatch, planned(tmp_path, weights))


def by_our_names(dense: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mixtral calls gate, down and up w1, w2 and w3, in another block than transformers holds them in."""
    parts = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    made = {}
    for name, w in dense.items():
        for theirs, ours in parts.items():
            name = name.replace(f".{theirs}.weight", f".{ours}.weight")
        made[name.replace("block_sparse_moe", "mlp")] = w
    return made


@pytest.mark.parametrize("family", ["gpt_oss", "llama4"])
def test_experts_in_one_tensor(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored transposed, with gate and up in turn or in halves: groups are along the inputs all the same."""
    made, rounding = make_tiny(tmp_path, family), rounding_of(INT8)
    assert rounding is not None
    with torch.no_grad():
        for name, parameter in made.oracle.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                for w_IO in parameter:
                    w_IO.copy_(rounding.of(w_IO.T).dense().T)
    check(tmp_path, made.oracle, monkeypatch, planned(tmp_path, INT8))


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_projections_too(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the latent's second half, which attention takes apart; embedding, head, gates and norms stay."""
    made, weights = make_tiny(tmp_path, family), replace(INT8, quantize_scope="all")
    set_weights(made.oracle, rounded(tmp_path, weights, lambda name: "_proj" in name and "kv_b_proj" not in name))
    check(tmp_path, made.oracle, monkeypatch, planned(tmp_path, weights))


def test_what_is_kept_and_what_it_takes(tiny: Callable[..., Tiny]) -> None:
    for weights, kind in ((INT4, Int4Groups), (INT8, Int8Groups)):
        plan = planned(tiny("qwen3_moe").path, weights)
        for shard in load_shards(plan, 2, backend="cpu"):
            held = [w for layer in shard.snapshot.values() for w in (*layer.weights.gate_up, *layer.weights.down)]
            assert all(isinstance(w, kind) for w in held)
            assert sum(w.nbytes for w in held if not isinstance(w, Tensor)) == shard.weights_bytes


def test_experts_in_a_quantized_format_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kimi's: attention and shared experts in floats, which `all` rounds, routed experts in INT4, which stay so."""
    made, weights = make_tiny(tmp_path, "deepseek_v3"), replace(INT8, quantize_scope="all")
    plain = rounded(tmp_path, weights, lambda name: "_proj" in name and "kv_b_proj" not in name)
    write_int4(tmp_path, made.oracle, "compressed-tensors", 16)
    made.oracle.load_state_dict({n: w for n, w in plain.items() if ".experts." not in n}, strict=False)
    check(tmp_path, made.oracle, monkeypatch, planned(tmp_path, weights), keep_packed=True)
    shard = load_shards(planned(tmp_path, weights), 2, keep_packed=True, backend="cpu")[0]
    assert isinstance(next(iter(shard.snapshot.values())).weights.gate_up[0], RowStack)


@pytest.mark.parametrize("scope", ["experts", "all"])
@pytest.mark.parametrize("form", ["fp8", "int4", "mxfp4"])
def test_a_quantized_checkpoint_is_refused(tmp_path: Path, form: str, scope: Any) -> None:
    family = "gpt_oss" if form == "mxfp4" else "qwen3_moe"
    made, weights = make_tiny(tmp_path, family), replace(INT4, quantize_scope=scope)
    if form == "mxfp4":
        write_mxfp4(tmp_path, made.oracle)
    elif form == "fp8":
        write_fp8(tmp_path, made.oracle, (16, 16))
    else:
        write_int4(tmp_path, made.oracle, "gptq", 8)
    if form == "mxfp4" and scope == "all":  # gpt-oss's attention is in floats
        assert not planned(tmp_path, weights).tensors.experts.rounds
        return
    what = "experts and projections" if scope == "all" else "experts"
    with pytest.raises(CheckpointError, match=f"weights.quantize is int4, but the checkpoint's {what} are in a quan"):
        planned(tmp_path, weights)


def test_a_matrix_that_cannot_be_rounded_is_named(tmp_path: Path) -> None:
    make_tiny(tmp_path, "qwen3_moe")
    name = "model.layers.2.mlp.experts.5.down_proj.weight"

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][3, 7] = torch.inf

    change_tensors(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"matrix {name}: a matrix with values that are not finite"):
        load_shards(planned(tmp_path, INT4), 2)

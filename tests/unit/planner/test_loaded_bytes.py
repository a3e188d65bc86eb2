"""A router reports as many bytes loaded as were announced: others of its node wait for exactly so many."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.config import Residence, WeightsConfig
from kernels import select
from router_service.models.weights import load_router_weights
from tests.support.formats import FORMATS, write_format
from tests.support.int4_checkpoints import int4_config, write_int4
from tests.support.quantize import change_config, write_fp8, write_mxfp4
from tests.support.tiny import FAMILIES, Tiny, write_checkpoint


def check(path: Path, resident: Residence = "dequantized") -> None:
    model = open_model(ModelConfig(checkpoint=str(path), device="cpu"), WeightsConfig(resident=resident))
    loaded: list[int] = []
    load_router_weights(
        checkpoint=model.plan.checkpoint,
        params=model.plan.tensors.router,
        dtype=model.dtype,
        device=model.device,
        ops=select.ops("auto", model.device),
        keep_packed=model.keep_packed,
        progress=loaded.append,
    )
    assert sum(loaded) == model.router_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tiny: Callable[..., Tiny], family: str) -> None:
    check(tiny(family).path)


def test_a_table_that_is_the_head_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", tie_word_embeddings=True)
    check(tmp_path)


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_what_is_stored_in_blocks(tmp_path: Path, form: str, resident: Residence) -> None:
    family = "gpt_oss" if form == "mxfp4" else "deepseek_v3"
    model = write_checkpoint(tmp_path, family, torch.bfloat16)
    write_mxfp4(tmp_path, model) if form == "mxfp4" else write_fp8(tmp_path, model, (16, 16))
    check(tmp_path, resident)


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
@pytest.mark.parametrize("form", ["fp8-tensor", "int8", "nvfp4"])
def test_formats_of_low_bits(tmp_path: Path, form: str, resident: Residence) -> None:
    model = write_checkpoint(tmp_path, "qwen3_moe", torch.bfloat16, moe_intermediate_size=32, intermediate_size=64)
    write_format(tmp_path, model, FORMATS[form], lambda name: "_proj" in name or name == "lm_head.weight")
    check(tmp_path, resident)


@pytest.mark.parametrize("resident", ["packed", "dequantized"])
@pytest.mark.parametrize("form", ["gptq", "awq", "gptq, any order"])
def test_int4(tmp_path: Path, form: str, resident: Residence) -> None:
    """Also where what is read takes more or less than announced: others wait for what was announced."""
    model = write_checkpoint(tmp_path, "qwen3_moe", torch.bfloat16)
    method, _, shuffled = form.partition(", ")
    write_int4(tmp_path, model, method, 8, zeros=method == "awq", shuffled=bool(shuffled))
    change_config(tmp_path, quantization_config=int4_config(method, 8, zeros=True, shuffled=bool(shuffled)))
    check(tmp_path, resident)

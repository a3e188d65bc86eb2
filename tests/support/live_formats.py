"""Tiny models whose experts are in any of the formats that stay as they are."""

from dataclasses import replace
from pathlib import Path

from cluster.planner.quantize import quantized
from experts.checkpoint.directory import Checkpoint
from experts.config import WeightsConfig
from router_service.models.families.registry import ModelPlan, plan_model
from tests.support.formats import FORMATS, write_format
from tests.support.int4_checkpoints import write_int4
from tests.support.quantize import write_fp8, write_mxfp4
from tests.support.tiny import make_tiny

# Whole groups of 16 inputs.
SIXTEENS = {"moe_intermediate_size": 32, "intermediate_size": 64}


def plan_in(form: str, path: Path) -> ModelPlan:
    """A tiny model whose experts are stored in a format, or rounded to it when they are read."""
    if form in ("int4-at-load", "int8-at-load"):
        make_tiny(path, "qwen3_moe")
        plan = plan_model(Checkpoint(path))
        weights = WeightsConfig("dequantized", "int4" if form == "int4-at-load" else "int8")
        return replace(plan, tensors=quantized(plan.tensors, weights, str(path)))
    if form == "mxfp4":
        write_mxfp4(path, make_tiny(path, "gpt_oss").oracle)
    elif form == "fp8-blocks":
        write_fp8(path, make_tiny(path, "qwen3_moe").oracle, (16, 16))
    elif form == "int4":
        write_int4(path, make_tiny(path, "qwen3_moe", **SIXTEENS).oracle, "compressed-tensors", 16)
    else:
        made = make_tiny(path, "qwen3_moe", **(SIXTEENS if "nvfp4" in form else {}))
        write_format(path, made.oracle, FORMATS[form])
    return plan_model(Checkpoint(path))

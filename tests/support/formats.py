"""Checkpoints in FP8, INT8 and NVFP4 as llm-compressor and NVIDIA's ModelOpt write them, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.quantize import FP8, MXFP4_VALUES, change_config, change_tensors, fp8_blocks, fp8_dense, set_weights

BLOCK = (16, 32)
# Tensors by what comes after the weight's name, and the matrix in float64.
Packed = tuple[dict[str, Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """How a matrix is written, and the `quantization_config` that says so."""

    pack: Callable[[Tensor], Packed]
    config: dict[str, Any]


def _bytes_with_scales(w_OI: Tensor, dtype: torch.dtype, largest: float, per_tensor: bool = False) -> Packed:
    peak = w_OI.abs().max() if per_tensor else w_OI.abs().amax(1, keepdim=True)
    scales = (peak / largest).bfloat16()
    wide = w_OI / scales.float()
    values = wide.to(dtype) if dtype is FP8 else wide.round().clamp(-128, 127).to(dtype)
    return {"": values, "_scale": scales}, values.double() * scales.double()


def fp8_channel(w_OI: Tensor) -> Packed:
    """A scale for each output."""
    return _bytes_with_scales(w_OI, FP8, 448)


def flat_fp8_channel(w_OI: Tensor) -> Packed:
    """The same with scales in one dimension."""
    tensors, dense = fp8_channel(w_OI)
    return tensors | {"_scale": tensors["_scale"].flatten()}, dense


def fp8_tensor(w_OI: Tensor) -> Packed:
    """One scale, in float32, and that of the inputs as it was measured."""
    tensors, dense = _bytes_with_scales(w_OI, FP8, 448, per_tensor=True)
    return tensors | {"_scale": tensors["_scale"].float()}, dense


def fp8_block(w_OI: Tensor) -> Packed:
    """A scale for each block."""
    values, scales = fp8_blocks(w_OI, BLOCK)
    return {"": values, "_scale": scales}, fp8_dense(values, scales, BLOCK)


def int8(w_OI: Tensor) -> Packed:
    """A scale for each output."""
    return _bytes_with_scales(w_OI, torch.int8, 127)


def modelopt_nvfp4(w_OI: Tensor) -> Packed:
    """Two levels of scales, the product of which multiplies; as wide a second one as FP8 has room for."""
    groups = w_OI.unflatten(1, (-1, 16))
    second = w_OI.abs().max() / (6 * 448)
    scales = (groups.abs().amax(2) / 6 / second).to(FP8)
    steps = scales.double() * second.double()
    codes = ((groups / steps[:, :, None])[..., None] - MXFP4_VALUES).abs().argmin(-1)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8).flatten(1)
    dense = (MXFP4_VALUES.double()[codes] * steps[:, :, None]).flatten(1)
    return {"": packed, "_scale": scales, "_scale_2": second}, dense


def nvfp4(w_OI: Tensor) -> Packed:
    """The same with the reciprocal of the second scale, by which one divides."""
    tensors, _ = modelopt_nvfp4(w_OI)
    divisor = tensors["_scale_2"].reciprocal().view(1)
    halves = torch.stack((tensors[""] & 15, tensors[""] >> 4), -1).flatten(1).long()
    steps = (tensors["_scale"].double() / divisor.double()).repeat_interleave(16, 1)
    named = {"_packed": tensors[""], "_scale": tensors["_scale"], "_global_scale": divisor}
    return named, MXFP4_VALUES.double()[halves] * steps


def compressed(form: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`quantization_config` of compressed-tensors with one group, with all that llm-compressor writes."""
    unset = dict.fromkeys(("actorder", "block_structure", "group_size"))
    weights = {"dynamic": False, "symmetric": True, "observer": "minmax", "observer_kwargs": {}} | unset | weights
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*mlp\\.gate$"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.14.0",
        **more,
    }


def modelopt(algorithm: str, **more: Any) -> dict[str, Any]:
    """`quantization_config` of ModelOpt."""
    return {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head", "*.mlp.gate"], **more}


FP8_WEIGHTS = {"num_bits": 8, "type": "float"}
FORMATS: dict[str, Format] = {
    "fp8-channel": Format(fp8_channel, compressed("float-quantized", FP8_WEIGHTS | {"strategy": "channel"})),
    "fp8-tensor": Format(fp8_tensor, compressed("float-quantized", FP8_WEIGHTS | {"strategy": "tensor"})),
    "fp8-block": Format(
        fp8_block,
        compressed("float-quantized", FP8_WEIGHTS | {"strategy": "block", "block_structure": list(BLOCK)}),
    ),
    "int8": Format(int8, compressed("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"})),
    "nvfp4": Format(
        nvfp4,
        compressed(
            "nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
        ),
    ),
    "modelopt-fp8": Format(fp8_tensor, modelopt("FP8")),
    "modelopt-fp8-channel": Format(flat_fp8_channel, modelopt("FP8_PER_CHANNEL_PER_TOKEN")),
    "modelopt-nvfp4": Format(modelopt_nvfp4, modelopt("NVFP4", group_size=16)),
    "autofp8": Format(fp8_tensor, {"quant_method": "fp8", "activation_scheme": "static"}),
}


def every_projection(name: str) -> bool:
    """What publishers quantize: attention, dense feed-forwards, experts and shared experts."""
    return "_proj" in name


def write_format(
    path: Path, model: Any, form: Format, chosen: Callable[[str], bool] = every_projection, **more: Tensor
) -> None:
    """Store the chosen matrices of a checkpoint in a format, and give `model` the values that this stands for.

    `more` are further tensors of each matrix's module, as `input_scale`.
    """
    dense: dict[str, Tensor] = {}

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.endswith(".weight") and chosen(n)]:
            packed, dense[name] = form.pack(tensors.pop(name).float())
            tensors |= {name + end: tensor for end, tensor in packed.items()}
            tensors |= {name.removesuffix("weight") + end: tensor.clone() for end, tensor in more.items()}

    change_tensors(path, change)
    change_config(path, quantization_config=form.config)
    set_weights(model, dense)

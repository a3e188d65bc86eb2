"""How the random checkpoints store quantized matrices: names, shapes and values as publishers write them."""

from collections.abc import Mapping

import torch
from torch import Tensor

FP8_BLOCK, FP8_STD = 128, 16.0  # values of about 16, so that the scale is a matrix's deviation over 16
MXFP4_GROUP, MXFP4_EXPONENT = 32, 120  # 2^(120 - 127): values of up to 6/128
SCALES = "_scale_inv"
Shapes = dict[str, torch.Size]

# By kind, what config.json says of it.
QUANTIZATION: Mapping[str, Mapping[str, object]] = {
    "fp8": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    },
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
}


def stored_shapes(kind: str, shapes: Shapes) -> Shapes:
    """What a file holds in place of these tensors; `kind` is "" for plain ones."""
    return {name: size for item in shapes.items() for name, size in _stored(kind, *item).items()}


def random_packed(name: str, size: torch.Size, shapes: Mapping[str, torch.Size], std: float) -> Tensor | None:
    """Values of a tensor that belongs to a quantized matrix; None for a plain one."""
    if f"{name}{SCALES}" in shapes:
        return torch.empty(size).normal_(0.0, FP8_STD).to(torch.float8_e4m3fn)
    if name.endswith(SCALES):
        return torch.full(size, std / FP8_STD)
    if name.endswith("_blocks"):
        return torch.empty(size, dtype=torch.uint8).random_(256)
    return torch.full(size, MXFP4_EXPONENT, dtype=torch.uint8) if name.endswith("_scales") else None


def _stored(kind: str, name: str, size: torch.Size) -> Shapes:
    if kind == "fp8" and name.endswith("_proj.weight"):
        return {name: size, f"{name}{SCALES}": torch.Size(-(-n // FP8_BLOCK) for n in size)}
    if kind == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        experts, inputs, outputs = size  # transformers' order; on disk outputs come first
        groups = (experts, outputs, inputs // MXFP4_GROUP)
        return {f"{name}_blocks": torch.Size((*groups, MXFP4_GROUP // 2)), f"{name}_scales": torch.Size(groups)}
    return {name: size}

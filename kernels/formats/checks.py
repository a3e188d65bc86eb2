"""What every packed matrix is checked for when it is made."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats.quantized import FLOAT_DTYPES


def check_packed(dtype: torch.dtype, **tensors: Tensor) -> None:
    """Raise ValueError unless the tensors are contiguous and on one device, and `dtype` is one to decode to."""
    if dtype not in FLOAT_DTYPES:
        raise ValueError(f"a quantized matrix decodes to bfloat16, float16 or float32, not {dtype}")
    if not all(tensor.is_contiguous() for tensor in tensors.values()):
        raise ValueError(f"{' and '.join(tensors)} must be contiguous: call contiguous() on them first")
    if len({tensor.device for tensor in tensors.values()}) > 1:
        places = " and ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"{places} must be together: move them to one device")


def check_scales(name: str, scales: Tensor, dtype: torch.dtype, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless `scales` are of this dtype and of one of the shapes; `name` is what they are called."""
    if scales.dtype != dtype or tuple(scales.shape) not in shapes:
        wanted = f"{str(dtype).removeprefix('torch.')} {' or '.join(map(str, shapes))}"
        raise ValueError(f"{name} must be {wanted}, got {scales.dtype} {tuple(scales.shape)}")

"""Rotary position embedding: the frequencies of each kind, and a step's angles.

T tokens, C rotated elements, C/2 pairs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from router_service.models import spec


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of a step's positions, `[T, 1, C]`, in the dtype of the rotation."""

    cos_T1C: Tensor
    sin_T1C: Tensor


def frequencies(rope: spec.Rope) -> tuple[Tensor, float]:
    """Return the angle of each pair at position 1, float32 [C/2], and the factor of cosines and sines."""
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    plain = 1.0 / rope.theta**exponents
    numbers = dict(rope.scaling)
    if rope.kind == "linear":
        return plain / numbers["factor"], 1.0
    if rope.kind == "llama3":
        return _llama3(plain, numbers), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, numbers), _yarn_attention_factor(numbers)
    return plain, 1.0


def rotation(positions_T: Tensor, rope: spec.Rope, angles: Tensor, factor: float, dtype: torch.dtype) -> Rotation:
    """Return the rotation of `positions_T` for heads of `dtype`, from the results of `frequencies`."""
    turned = torch.outer(positions_T.float(), angles)
    # In float64: torch takes another function for the last few elements, and which those are depends on who shares the
    # step. Their float32 is the same.
    turned_T1C = torch.cat((turned, turned), dim=-1).unsqueeze(1).double()
    kept = torch.float32 if rope.float32 else dtype
    cos_T1C, sin_T1C = turned_T1C.cos().float(), turned_T1C.sin().float()
    return Rotation((cos_T1C * factor).to(kept), (sin_T1C * factor).to(kept))


def yarn_scale(factor: float, multiplier: float) -> float:
    """The logarithmic correction of YaRN (Peng et al. 2023, arXiv 2309.00071, equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0


def _yarn_attention_factor(numbers: dict[str, float]) -> float:
    if "attention_factor" in numbers:
        return numbers["attention_factor"]
    factor, ours, whole = numbers["factor"], numbers.get("mscale"), numbers.get("mscale_all_dim")
    if ours and whole:
        return yarn_scale(factor, ours) / yarn_scale(factor, whole)
    return yarn_scale(factor, 1.0)


def _yarn(plain: Tensor, rope: spec.Rope, numbers: dict[str, float]) -> Tensor:
    """YaRN's "NTK by parts": high frequencies keep their angle, low ones are stretched."""
    # As in transformers, where 0 means the default too.
    low = _pair_that_turns(numbers.get("beta_fast") or 32, rope, numbers)
    high = _pair_that_turns(numbers.get("beta_slow") or 1, rope, numbers)
    if numbers.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    # As in transformers: equal bounds must not divide by zero.
    ramp = (torch.arange(rope.dim // 2, dtype=torch.float32) - low) / (high - low or 0.001)
    stretched = ramp.clamp(0, 1)
    return plain / numbers["factor"] * stretched + plain * (1 - stretched)


def _pair_that_turns(times: float, rope: spec.Rope, numbers: dict[str, float]) -> float:
    """The (fractional) index of the pair that turns `times` times within the original context."""
    original = numbers["original_max_position_embeddings"]
    return rope.dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope.theta))


def _llama3(plain: Tensor, numbers: dict[str, float]) -> Tensor:
    """Llama 3.1's scaling: long wavelengths are stretched, short ones kept, with a smooth transition."""
    original, factor = numbers["original_max_position_embeddings"], numbers["factor"]
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    turns = original * plain / (2 * math.pi)
    if low == high:
        return torch.where(turns < low, plain / factor, plain)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * plain / factor + smooth * plain

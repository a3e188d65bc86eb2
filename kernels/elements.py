"""Norms and activations in torch: the oracle of the native ones, and what other backends use.

T rows, D or F elements of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x_TD: Tensor, weight_D: Tensor | None, eps: float, round_last: bool = False) -> Tensor:
    """Normalize the last dimension in float32; the result has x's dtype (Zhang and Sennrich 2019, arXiv 1910.07467).

    It is rounded before the multiplication by the weight, as transformers does for most families; with `round_last`
    after it, as for gpt-oss.
    """
    if x_TD.dtype == torch.float32:
        return F.rms_norm(x_TD, (x_TD.shape[-1],), weight_D, eps)
    if round_last and weight_D is not None:
        return F.rms_norm(x_TD.float(), (x_TD.shape[-1],), weight_D.float(), eps).to(x_TD.dtype)
    normed_TD = F.rms_norm(x_TD.float(), (x_TD.shape[-1],), None, eps).to(x_TD.dtype)
    return normed_TD if weight_D is None else normed_TD * weight_D


def silu_mul(x_TF2: Tensor) -> Tensor:
    """silu(the first half of the columns) * the second half; rounded to x's dtype behind each."""
    gate_TF, up_TF = x_TF2.chunk(2, dim=-1)
    return F.silu(gate_TF) * up_TF

"""Norms and activations in torch: the oracle of the native ones, and what other backends use.

T rows, D or F elements of a row; N heads of C elements.
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


def turned_heads(
    x_TNC: Tensor, weight_NC: Tensor | None, eps: float, cos_T1C: Tensor, sin_T1C: Tensor, interleaved: bool
) -> Tensor:
    """Each head normalized and times its weight, if there is one, then rotated; in x's dtype."""
    if weight_NC is not None:
        x_TNC = rms_norm(x_TNC, None, eps) * weight_NC
    return rotate(x_TNC, cos_T1C, sin_T1C, interleaved)


def rotate(x_TNC: Tensor, cos_T1C: Tensor, sin_T1C: Tensor, interleaved: bool) -> Tensor:
    """Rotate each head. The first half of its elements pairs with the second, as in GPT-NeoX.

    Interleaved heads pair neighbours and come out with the first of each pair in the first half: queries and keys
    alike, so that their products are the same.
    """
    if interleaved:
        first, second = x_TNC[..., 0::2], x_TNC[..., 1::2]
        x_TNC = torch.cat((first, second), dim=-1)
    else:
        first, second = x_TNC.chunk(2, dim=-1)
    return (x_TNC * cos_T1C + torch.cat((-second, first), dim=-1) * sin_T1C).to(x_TNC.dtype)

"""RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, round_last: bool = False) -> Tensor:
    """Normalize the last dimension in float32; the result has x's dtype.

    It is rounded before the multiplication by the weight, as transformers does for most families; with `round_last`
    after it, as for gpt-oss.
    """
    if x.dtype == torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    if round_last and weight is not None:
        return F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps).to(x.dtype)
    normed = F.rms_norm(x.float(), (x.shape[-1],), None, eps).to(x.dtype)
    return normed if weight is None else normed * weight

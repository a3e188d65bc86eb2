"""Scaled dot-product attention with grouped heads and sinks, by torch's fused kernel where there is one.

Z batch, H heads, J key-value heads (H is a multiple of J), N rows, M keys, C head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_attention(
    q_ZHNC: Tensor,
    k_ZJMC: Tensor,
    v_ZJMC: Tensor,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return out_ZHNC in q's dtype; keys, values and queries have one head size.

    Args:
        sinks: one more logit for each row, whose share is dropped (gpt-oss, OpenAI 2025); broadcast to [Z, H, N].
        mask: what is added to the logits, in q's dtype, or bool: which keys a row attends to. Broadcast.
        causal: each row attends to the keys up to its own number; excludes a mask.
    """
    if sinks is None:
        return F.scaled_dot_product_attention(
            q_ZHNC, k_ZJMC, v_ZJMC, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True
        )
    if q_ZHNC.device.type != "cpu":
        return _with_sinks_unfused(q_ZHNC, k_ZJMC, v_ZJMC, scale, _allowed(mask, causal, q_ZHNC, k_ZJMC), sinks)
    # torch's own function drops the logarithm of the sum of exponentials, with which a sink can be added afterwards.
    out_ZHNC, logsumexp_ZHN = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_ZHNC, k_ZJMC, v_ZJMC, 0.0, causal, attn_mask=_additive(mask, q_ZHNC.dtype), scale=scale
    )
    kept_ZHN = torch.sigmoid(logsumexp_ZHN - sinks.float())
    reduced_ZHNC: Tensor = out_ZHNC * kept_ZHN.unsqueeze(-1)
    return reduced_ZHNC.to(q_ZHNC.dtype)


def softmax_with_sinks(scores: Tensor, sinks: Tensor) -> Tensor:
    """Softmax over the last dimension with one more logit, the sink, whose share is dropped. In scores' dtype."""
    with_sink = torch.cat((scores.float(), sinks.float().expand(*scores.shape[:-1], 1)), dim=-1)
    return with_sink.softmax(dim=-1)[..., :-1].to(scores.dtype)


def _with_sinks_unfused(
    q_ZHNC: Tensor, k_ZJMC: Tensor, v_ZJMC: Tensor, scale: float, mask: Tensor | None, sinks: Tensor
) -> Tensor:
    groups = q_ZHNC.shape[1] // k_ZJMC.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k_ZJMC, v_ZJMC))
    scores = (q_ZHNC * scale) @ k.transpose(2, 3)
    if mask is not None:
        scores = scores + mask
    return softmax_with_sinks(scores, sinks.unsqueeze(-1)) @ v


def _allowed(mask: Tensor | None, causal: bool, q_ZHNC: Tensor, k_ZJMC: Tensor) -> Tensor | None:
    if causal:
        mask = torch.ones(q_ZHNC.shape[2], k_ZJMC.shape[2], dtype=torch.bool, device=q_ZHNC.device).tril()
    return _additive(mask, q_ZHNC.dtype)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The mask as what is added to the logits: 0 where a row attends, else minus infinity."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))

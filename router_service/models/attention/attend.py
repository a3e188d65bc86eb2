"""Attention of one sequence's rows over its cached context: causal, windowed or in chunks, with or without sinks.

N rows (the last N of M positions), M positions of context, H heads, J key-value heads, G = H / J, C head size, V value
size. Rows are processed in blocks, so that no mask or score is larger than BLOCK_ROWS x M per head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from router_service.models.view import View

BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Span:
    """Rows at positions `first` to `last` (exclusive), and the first position that any of them attends to."""

    first: int
    last: int
    since: int


def attend(
    q_NHC: Tensor, k_MJC: Tensor, v_MJV: Tensor, view: View, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """Return out_NHV in q's dtype. The rows are the last N of the M positions; `scale` multiplies the logits."""
    rows, context = len(q_NHC), len(k_MJC)
    if rows == 1:
        if since := first_seen(context - 1, view):
            k_MJC, v_MJV = k_MJC[since:], v_MJV[since:]
        return _one_row(q_NHC, k_MJC, v_MJV, scale, sinks_H)
    # Without a mask torch can use its fused kernel; sinks and windows need their own scores or mask.
    if rows == context and sinks_H is None and first_seen(context - 1, view) == 0:
        return _whole_prompt(q_NHC, k_MJC, v_MJV, scale)
    out_NHV = q_NHC.new_empty(rows, q_NHC.shape[1], v_MJV.shape[2])
    for first in range(context - rows, context, BLOCK_ROWS):
        span = Span(first, min(first + BLOCK_ROWS, context), first_seen(first, view))
        part = slice(first - (context - rows), span.last - (context - rows))
        keys = slice(span.since, span.last)
        out_NHV[part] = _masked(q_NHC[part], k_MJC[keys], v_MJV[keys], _mask(span, view, q_NHC.device), scale, sinks_H)
    return out_NHV


def first_seen(position: int, view: View) -> int:
    """Return the first position that a row at `position` attends to."""
    if view.window is not None:
        return max(0, position - view.window + 1)
    return position - position % view.chunk if view.chunk is not None else 0


def _mask(span: Span, view: View, device: torch.device) -> Tensor:
    """Which of the span's positions each of its rows attends to, bool [rows, positions]."""
    key = torch.arange(span.since, span.last, device=device)
    row = torch.arange(span.first, span.last, device=device)[:, None]
    mask = key <= row
    if view.window is not None:
        mask &= key > row - view.window
    if view.chunk is not None:
        mask &= key >= row - row % view.chunk
    return mask


def _one_row(q_1HC: Tensor, k_MJC: Tensor, v_MJV: Tensor, scale: float, sinks_H: Tensor | None) -> Tensor:
    """One row per sequence: the G heads of a key-value head become rows, so that keys are read in place and once."""
    heads, kv_heads = q_1HC.shape[1], k_MJC.shape[1]
    q = q_1HC.reshape(1, kv_heads, -1, q_1HC.shape[-1])
    k, v = (t.transpose(0, 1).unsqueeze(0) for t in (k_MJC, v_MJV))
    if sinks_H is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale).reshape(1, heads, -1)
    scores_JGM = (q[0] * scale) @ k[0].transpose(1, 2)
    return (_softmax(scores_JGM, sinks_H.view(kv_heads, -1, 1)) @ v[0]).view(1, heads, -1)


def _whole_prompt(q_NHC: Tensor, k_NJC: Tensor, v_NJV: Tensor, scale: float) -> Tensor:
    """Plain causal attention. Values are padded to the keys' size, because torch's fused kernel needs equal sizes."""
    wide = max(0, k_NJC.shape[-1] - v_NJV.shape[-1])
    q, k, v = _by_head(q_NHC, k_NJC, F.pad(v_NJV, (0, wide)) if wide else v_NJV)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return out[0, :, :, : v_NJV.shape[-1]].transpose(0, 1)


def _masked(
    q_NHC: Tensor, k_MJC: Tensor, v_MJV: Tensor, mask_NM: Tensor, scale: float, sinks_H: Tensor | None
) -> Tensor:
    q, k, v = _by_head(q_NHC, k_MJC, v_MJV)
    if sinks_H is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask_NM, scale=scale)[0].transpose(0, 1)
    scores_HNM = ((q[0] * scale) @ k[0].transpose(1, 2)).masked_fill(~mask_NM, float("-inf"))
    return (_softmax(scores_HNM, sinks_H.view(-1, 1, 1)) @ v[0]).transpose(0, 1)


def _by_head(q_NHC: Tensor, k_MJC: Tensor, v_MJV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[1, H, N or M, C or V]`, keys and values repeated for the heads that share them."""
    groups = q_NHC.shape[1] // k_MJC.shape[1]
    k, v = (t.transpose(0, 1).repeat_interleave(groups, dim=0).unsqueeze(0) for t in (k_MJC, v_MJV))
    return q_NHC.transpose(0, 1).unsqueeze(0), k, v


def _softmax(scores: Tensor, sinks: Tensor) -> Tensor:
    """Softmax over the last dimension with one more logit per head, the sink, whose share is dropped (gpt-oss)."""
    with_sink = torch.cat((scores.float(), sinks.float().expand(*scores.shape[:-1], 1)), dim=-1)
    return with_sink.softmax(dim=-1)[..., :-1].to(scores.dtype)

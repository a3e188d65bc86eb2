"""Attention of one sequence's rows over its cached context: causal, windowed or in chunks, with or without sinks.

N rows (the last N of M positions), M positions of context, H heads, J key-value heads, G = H / J, C head size, V value
size. Rows are processed in blocks, so that no mask or score is larger than BLOCK_ROWS x M per head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.fused import fused_attention
from router_service.models.view import View

BLOCK_ROWS = 256
# Through a short window each row more of a block is a key more for all its rows: at 128 tokens, blocks of 64 take 2/3
# of the time that blocks of 256 take.
LEAST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Span:
    """Rows at positions `first` to `last` (exclusive), and the first position that any of them attends to."""

    first: int
    last: int
    since: int


def attend(
    q_NHC: Tensor, k_MJC: Tensor, v_MJV: Tensor, view: View, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """Return out_NHV in q's dtype. The rows are the last N of the M positions; `scale` multiplies the logits.

    The first positions need not be given if no row attends to them; with chunks, the first one given begins a chunk.
    """
    rows, context, sinks = q_NHC.shape[0], k_MJC.shape[0], None if sinks_H is None else sinks_H[:, None]
    value_size = v_MJV.shape[-1]
    q_NHC, k_MJC, v_MJV = _of_one_width(q_NHC, k_MJC, v_MJV)
    # Without a mask torch skips what is behind the diagonal.
    if rows == context and view.first_seen(context - 1) == 0:
        out_NHC = _fused(q_NHC, k_MJC, v_MJV, scale, None, sinks)
        return out_NHC[..., :value_size]
    out_NHC = q_NHC.new_empty(q_NHC.shape)
    block = _block_rows(view)
    for first in range(context - rows, context, block):
        span = Span(first, min(first + block, context), view.first_seen(first))
        part = slice(first - (context - rows), span.last - (context - rows))
        keys = slice(span.since, span.last)
        mask = _mask(span, view, q_NHC.device)
        out_NHC[part] = _fused(q_NHC[part], k_MJC[keys], v_MJV[keys], scale, mask, sinks)
    return out_NHC[..., :value_size]


def _block_rows(view: View) -> int:
    reach = view.remembers
    return BLOCK_ROWS if reach is None else min(BLOCK_ROWS, max(LEAST_ROWS, reach // 2))


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


def _fused(
    q_NHC: Tensor, k_MJC: Tensor, v_MJC: Tensor, scale: float, mask: Tensor | None, sinks: Tensor | None
) -> Tensor:
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (q_NHC, k_MJC, v_MJC))
    return fused_attention(q, k, v, scale, mask, causal=mask is None, sinks=sinks)[0].transpose(0, 1)


def _of_one_width(*tensors: Tensor) -> list[Tensor]:
    """The tensors with zeros behind their elements: torch's fused kernel needs heads of one size."""
    widest = max(t.shape[-1] for t in tensors)
    return [t if t.shape[-1] == widest else F.pad(t, (0, widest - t.shape[-1])) for t in tensors]

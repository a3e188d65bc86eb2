"""The gate on a GPU: softmax, top-k and normalization in one Triton kernel.

Legend: T tokens, K experts per token, E experts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reference import check_gate

# Elements that one program holds: few enough to stay in registers.
_TILE = 2048


def gate_topk(logits_TE: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """As `reference.gate_topk`, except that among equal weights the lowest expert comes first.

    K rounds of taking the largest. A NaN counts as the largest, so ids stay in range and the weights say NaN.
    """
    check_gate(logits_TE, top_k)
    tokens, experts = logits_TE.shape
    weights_TK = logits_TE.new_empty(tokens, top_k, dtype=torch.float32)
    expert_ids_TK = logits_TE.new_empty(tokens, top_k, dtype=torch.int64)
    if tokens == 0:
        return weights_TK, expert_ids_TK
    block_e = triton.next_power_of_2(experts)
    block_t = max(1, min(16, _TILE // block_e))
    _gate_kernel[(triton.cdiv(tokens, block_t),)](
        logits_TE.contiguous(),
        weights_TK,
        expert_ids_TK,
        tokens,
        experts,
        TOP_K=top_k,
        NORMALIZE=normalize,
        BLOCK_T=block_t,
        BLOCK_E=block_e,
        BLOCK_K=triton.next_power_of_2(top_k),
    )
    return weights_TK, expert_ids_TK


@triton.jit  # type: ignore[untyped-decorator]
def _gate_kernel(
    logits_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    ids_ptr: tl.tensor,
    tokens: tl.tensor,
    experts: tl.tensor,
    TOP_K: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    k = tl.arange(0, BLOCK_K)
    real = (t < tokens)[:, None] & (e < experts)[None, :]
    logits = tl.load(logits_ptr + t[:, None] * experts + e[None, :], mask=real, other=float("-inf")).to(tl.float32)
    # Padding experts take part with weight 0; padding tokens get a finite row, which is not stored.
    logits = tl.where((t < tokens)[:, None], logits, 0.0)
    shifted = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    probs = shifted / tl.sum(shifted, axis=1)[:, None]
    # What is left to choose from: a chosen expert falls to -1, padding lies below that.
    left = tl.where(probs == probs, probs, 2.0)  # NaN differs from itself; 2 is above every probability
    left = tl.where((e < experts)[None, :], left, -2.0)
    weights = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    ids = tl.zeros((BLOCK_T, BLOCK_K), tl.int64)
    for i in range(TOP_K):
        best = tl.argmax(left, axis=1)
        chosen = e[None, :] == best[:, None]
        weight = tl.sum(tl.where(chosen, probs, 0.0), axis=1)
        weights = tl.where((k == i)[None, :], weight[:, None], weights)
        ids = tl.where((k == i)[None, :], best[:, None].to(tl.int64), ids)
        left = tl.where(chosen, -1.0, left)
    if NORMALIZE:
        weights = weights / tl.sum(weights, axis=1)[:, None]
    out = t[:, None] * TOP_K + k[None, :]
    stored = (t < tokens)[:, None] & (k < TOP_K)[None, :]
    tl.store(weights_ptr + out, weights, mask=stored)
    tl.store(ids_ptr + out, ids, mask=stored)

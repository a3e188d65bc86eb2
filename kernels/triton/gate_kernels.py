"""The Triton kernels of the gates, which `kernels.triton.gate` launches: one program routes a few tokens.

Legend: T tokens, K experts per token, E experts, G groups.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Below every score that counts, above what was chosen already and what is padding. A NaN stands above all.
_LEFT_OUT = tl.constexpr(-3.0e38)
_TAKEN = tl.constexpr(float("-inf"))
_FIRST = tl.constexpr(float("inf"))


@triton.jit  # type: ignore[untyped-decorator]
def _logits(
    logits_ptr: tl.tensor, tokens: tl.tensor, experts: tl.tensor, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr
) -> tl.tensor:
    """This program's tokens, all experts, their logits in float32: -inf for padding experts, 0 for padding tokens."""
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    real = (t < tokens)[:, None] & (e < experts)[None, :]
    logits = tl.load(logits_ptr + t[:, None] * experts + e[None, :], mask=real, other=float("-inf")).to(tl.float32)
    return t, e, tl.where((t < tokens)[:, None], logits, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _take(
    ranked: tl.tensor, scores: tl.tensor, e: tl.tensor,
    TOP_K: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The K experts that rank first, and their scores. `ranked` holds no NaN."""
    k = tl.arange(0, BLOCK_K)
    weights = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    ids = tl.zeros((BLOCK_T, BLOCK_K), tl.int64)
    for i in range(TOP_K):
        best = tl.argmax(ranked, axis=1)
        chosen = e[None, :] == best[:, None]
        weight = tl.sum(tl.where(chosen, scores, 0.0), axis=1)
        weights = tl.where((k == i)[None, :], weight[:, None], weights)
        ids = tl.where((k == i)[None, :], best[:, None].to(tl.int64), ids)
        ranked = tl.where(chosen, _TAKEN, ranked)
    return weights, ids


@triton.jit  # type: ignore[untyped-decorator]
def _store(
    weights_ptr: tl.tensor, ids_ptr: tl.tensor, weights: tl.tensor, ids: tl.tensor, t: tl.tensor, tokens: tl.tensor,
    TOP_K: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    out = t[:, None] * TOP_K + k[None, :]
    stored = (t < tokens)[:, None] & (k < TOP_K)[None, :]
    tl.store(weights_ptr + out, weights, mask=stored)
    tl.store(ids_ptr + out, ids, mask=stored)


@triton.jit  # type: ignore[untyped-decorator]
def softmax_kernel(
    logits_ptr: tl.tensor, weights_ptr: tl.tensor, ids_ptr: tl.tensor, tokens: tl.tensor, experts: tl.tensor,
    TOP_K: tl.constexpr, NORMALIZE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Softmax over all experts, then the K largest."""
    t, e, logits = _logits(logits_ptr, tokens, experts, BLOCK_T, BLOCK_E)
    shifted = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    probs = shifted / tl.sum(shifted, axis=1)[:, None]
    ranked = tl.where(probs == probs, probs, _FIRST)  # NaN differs from itself
    ranked = tl.where((e < experts)[None, :], ranked, _TAKEN)
    weights, ids = _take(ranked, probs, e, TOP_K, BLOCK_T, BLOCK_K)
    if NORMALIZE:
        weights = weights / tl.sum(weights, axis=1)[:, None]
    _store(weights_ptr, ids_ptr, weights, ids, t, tokens, TOP_K, BLOCK_K)


@triton.jit  # type: ignore[untyped-decorator]
def _in_best_groups(
    ranked: tl.tensor, group: tl.tensor, e: tl.tensor,
    GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_G: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Which experts belong to the groups whose two best experts have the largest sums."""
    g = tl.arange(0, BLOCK_G)
    sums = tl.full((BLOCK_T, BLOCK_G), _TAKEN, tl.float32)
    for i in range(GROUPS):
        own = tl.where((group == i)[None, :], ranked, _TAKEN)
        best = tl.argmax(own, axis=1)
        second = tl.max(tl.where(e[None, :] == best[:, None], _TAKEN, own), axis=1)
        sums = tl.where((g == i)[None, :], (tl.max(own, axis=1) + second)[:, None], sums)
    kept = ranked != ranked
    for _ in range(TOP_GROUPS):
        best = tl.argmax(sums, axis=1)
        kept = kept | (group[None, :] == best[:, None])
        sums = tl.where(g[None, :] == best[:, None], _TAKEN, sums)
    return kept


@triton.jit  # type: ignore[untyped-decorator]
def sigmoid_kernel(
    logits_ptr: tl.tensor, correction_ptr: tl.tensor, weights_ptr: tl.tensor, ids_ptr: tl.tensor,
    tokens: tl.tensor, experts: tl.tensor, scale: tl.tensor,
    TOP_K: tl.constexpr, NORMALIZE: tl.constexpr, CORRECTED: tl.constexpr,
    GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr,
) -> None:  # fmt: skip
    """Sigmoid scores; ranked with the correction, within the best groups; weighted without it."""
    t, e, logits = _logits(logits_ptr, tokens, experts, BLOCK_T, BLOCK_E)
    scores = tl.sigmoid(logits)
    ranked = scores
    if CORRECTED:
        ranked += tl.load(correction_ptr + e, mask=e < experts, other=0.0)[None, :]
    ranked = tl.where(ranked == ranked, ranked, _FIRST)  # NaN differs from itself
    ranked = tl.where((e < experts)[None, :], ranked, _TAKEN)
    if GROUPS > 1:
        group = e // (experts // GROUPS)
        kept = _in_best_groups(ranked, group, e, GROUPS, TOP_GROUPS, BLOCK_T, BLOCK_G)
        ranked = tl.where(kept | (e >= experts)[None, :], ranked, _LEFT_OUT)
    weights, ids = _take(ranked, scores, e, TOP_K, BLOCK_T, BLOCK_K)
    if NORMALIZE:
        weights = weights / (tl.sum(weights, axis=1)[:, None] + 1e-20)
    _store(weights_ptr, ids_ptr, weights * scale, ids, t, tokens, TOP_K, BLOCK_K)

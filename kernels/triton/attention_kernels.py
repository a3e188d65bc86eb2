"""The two Triton kernels of `kernels.triton.attention`: one part of a row, then all parts of a row together.

Legend: B rows, Q parts, H heads, J key-value heads, G = H / J heads that share one, M positions of a step, C and V
sizes of a key and a value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.dot import dot


@triton.jit  # type: ignore[untyped-decorator]
def part_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, slots_ptr: tl.tensor, parts_ptr: tl.tensor,
    sums_ptr: tl.tensor, stats_ptr: tl.tensor,
    scale: tl.tensor, heads: tl.tensor, group: tl.tensor, key_size: tl.tensor, value_size: tl.tensor,
    k_slot: tl.tensor, k_head: tl.tensor, v_slot: tl.tensor, v_head: tl.tensor,
    SHARED: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    """One part for up to BLOCK_G heads of one key-value head: the unnormalized sum, its maximum and its total.

    A key is BLOCK_C elements and BLOCK_R more: few sizes of heads are powers of two. With SHARED the values are the
    keys' first BLOCK_C elements, and are not read again.
    """
    # Blocks of heads vary fastest: programs beside each other read the same keys.
    blocks = tl.cdiv(group, BLOCK_G)
    across = (heads // group) * blocks
    part = (tl.program_id(0) // across).to(tl.int64)
    kv_head = tl.program_id(0) % across // blocks
    g = tl.program_id(0) % blocks * BLOCK_G + tl.arange(0, BLOCK_G)
    row, first, end = (
        tl.load(parts_ptr + part * 3),
        tl.load(parts_ptr + part * 3 + 1),
        tl.load(parts_ptr + part * 3 + 2),
    )
    c, v, m = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_M)
    head = kv_head * group + g
    q_rows = q_ptr + (row * heads + head)[:, None] * key_size
    q = tl.load(q_rows + c[None, :], mask=(g < group)[:, None] & (c < key_size)[None, :], other=0.0)
    if BLOCK_R > 0:
        r = BLOCK_C + tl.arange(0, BLOCK_R)
        q_rest = tl.load(q_rows + r[None, :], mask=(g < group)[:, None] & (r < key_size)[None, :], other=0.0)
    largest = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    sums = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
    for start in range(first, end, BLOCK_M):
        inside = start + m < end
        slot = tl.load(slots_ptr + start + m, mask=inside, other=0)
        k_rows = k_ptr + slot[:, None] * k_slot + kv_head * k_head
        k = tl.load(k_rows + c[None, :], mask=inside[:, None] & (c < key_size)[None, :], other=0.0)
        logits = dot(q, tl.trans(k), tl.zeros((BLOCK_G, BLOCK_M), tl.float32), INTERPRETED)
        if BLOCK_R > 0:
            k_rest = tl.load(k_rows + r[None, :], mask=inside[:, None] & (r < key_size)[None, :], other=0.0)
            logits = dot(q_rest, tl.trans(k_rest), logits, INTERPRETED)
        logits = tl.where(inside[None, :], logits * scale, float("-inf"))
        higher = tl.maximum(largest, tl.max(logits, axis=1))
        # Where all so far are -inf, as after an overflow, there is nothing to rescale; -inf - -inf would be NaN.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shares = tl.exp(logits - base[:, None])
        kept = tl.exp(largest - base)
        if SHARED:
            values = k
        else:
            v_rows = v_ptr + slot[:, None] * v_slot + kv_head * v_head
            values = tl.load(v_rows + v[None, :], mask=inside[:, None] & (v < value_size)[None, :], other=0.0)
        total = total * kept + tl.sum(shares, axis=1)
        sums = dot(shares.to(values.dtype), values, sums * kept[:, None], INTERPRETED)
        largest = higher
    at = part * heads + head
    mask = (g < group)[:, None] & (v < value_size)[None, :]
    tl.store(sums_ptr + at[:, None] * value_size + v[None, :], sums, mask=mask)
    tl.store(stats_ptr + at * 2, largest, mask=g < group)
    tl.store(stats_ptr + at * 2 + 1, total, mask=g < group)


@triton.jit  # type: ignore[untyped-decorator]
def merge_kernel(
    sums_ptr: tl.tensor, stats_ptr: tl.tensor, offsets_ptr: tl.tensor, sinks_ptr: tl.tensor, out_ptr: tl.tensor,
    heads: tl.tensor, value_size: tl.tensor,
    SINKS: tl.constexpr, BLOCK_V: tl.constexpr,
) -> None:  # fmt: skip
    """One head of one row: its parts from the first to the last, the sink behind them, divided by the total."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v = tl.arange(0, BLOCK_V)
    # Scalars that a loop carries must begin as the type that they keep.
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    sums = tl.zeros((BLOCK_V,), tl.float32)
    for part in range(tl.load(offsets_ptr + row), tl.load(offsets_ptr + row + 1)):
        at = part * heads + head
        part_largest, part_total = tl.load(stats_ptr + at * 2), tl.load(stats_ptr + at * 2 + 1)
        higher = tl.maximum(largest, part_largest)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        kept, added = tl.exp(largest - base), tl.exp(part_largest - base)
        total = total * kept + part_total * added
        sums = sums * kept + tl.load(sums_ptr + at * value_size + v, mask=v < value_size, other=0.0) * added
        largest = higher
    if SINKS:
        sink = tl.load(sinks_ptr + head).to(tl.float32)
        higher = tl.maximum(largest, sink)
        kept = tl.exp(largest - higher)
        total = total * kept + tl.exp(sink - higher)
        sums = sums * kept
    out = (sums / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + (row * heads + head) * value_size + v, out, mask=v < value_size)

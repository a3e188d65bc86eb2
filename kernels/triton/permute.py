"""Grouping rows by a key and summing rows per token on a GPU, without atomics: the same input gives the same bits.

Legend: T tokens, E experts or any other keys, N rows, B blocks of rows, D hidden.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# A program holds _BLOCK_N x _MAX_BLOCK_E hits: more keys are spread over programs, to stay in registers.
_BLOCK_N = 128
_MAX_BLOCK_E = 64
_MAX_BLOCK_D = 1024


def group_by_expert(expert_ids_N: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """As `reference.group_by_expert`, but ids out of range are not noticed: their rows belong to no expert.

    A counting sort in three steps: each block of rows counts its keys, one prefix sum over (key, block) turns counts
    into starts, each block places its rows. Never waits for the device.
    """
    rows = len(expert_ids_N)
    blocks = max(1, triton.cdiv(rows, _BLOCK_N))
    keys = expert_ids_N.contiguous()
    ends = torch.zeros(num_experts * blocks + 1, dtype=torch.int64, device=keys.device)
    order_N = torch.zeros(rows, dtype=torch.int64, device=keys.device)
    if rows:
        block_e = min(_MAX_BLOCK_E, triton.next_power_of_2(num_experts))
        grid = (blocks, triton.cdiv(num_experts, block_e))
        sizes = {"BLOCK_N": _BLOCK_N, "BLOCK_E": block_e}
        counts_EB = torch.empty(num_experts * blocks, dtype=torch.int32, device=keys.device)
        _count_kernel[grid](keys, counts_EB, rows, num_experts, blocks, **sizes)
        torch.cumsum(counts_EB, 0, dtype=torch.int64, out=ends[1:])
        _place_kernel[grid](keys, ends, order_N, rows, num_experts, blocks, **sizes)
    return order_N, ends[::blocks].contiguous()


def sum_rows(y_ND: Tensor, token_of_row_N: Tensor, num_tokens: int) -> Tensor:
    """As `reference.sum_rows`: y_TD float32, a token's rows added in row order by one program."""
    order_N, offsets_T1 = group_by_expert(token_of_row_N, max(1, num_tokens))
    hidden = y_ND.shape[1]
    y_TD = torch.empty(num_tokens, hidden, dtype=torch.float32, device=y_ND.device)
    if y_TD.numel():
        block_d = min(_MAX_BLOCK_D, triton.next_power_of_2(hidden))
        grid = (num_tokens, triton.cdiv(hidden, block_d))
        _sum_kernel[grid](y_ND.contiguous(), order_N, offsets_T1, y_TD, hidden, BLOCK_D=block_d)
    return y_TD


@triton.jit  # type: ignore[untyped-decorator]
def _hits(
    keys_ptr: tl.tensor, rows: tl.tensor, num_keys: tl.tensor, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr
) -> tl.tensor:
    """Which of this program's rows hold which of its keys, as 0 and 1."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    keys = tl.load(keys_ptr + n, mask=n < rows, other=-1)
    hits = (keys[:, None] == e[None, :]) & (e < num_keys)[None, :]
    return n, e, hits.to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _count_kernel(
    keys_ptr: tl.tensor,
    counts_ptr: tl.tensor,
    rows: tl.tensor,
    num_keys: tl.tensor,
    blocks: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
) -> None:
    _n, e, hits = _hits(keys_ptr, rows, num_keys, BLOCK_N, BLOCK_E)
    # int64: keys x blocks passes 2^31 where tokens are the keys of a very large batch.
    at = e.to(tl.int64) * blocks + tl.program_id(0)
    tl.store(counts_ptr + at, tl.sum(hits, axis=0), mask=e < num_keys)


@triton.jit  # type: ignore[untyped-decorator]
def _place_kernel(
    keys_ptr: tl.tensor,
    starts_ptr: tl.tensor,
    order_ptr: tl.tensor,
    rows: tl.tensor,
    num_keys: tl.tensor,
    blocks: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
) -> None:
    n, e, hits = _hits(keys_ptr, rows, num_keys, BLOCK_N, BLOCK_E)
    starts = tl.load(starts_ptr + e.to(tl.int64) * blocks + tl.program_id(0), mask=e < num_keys, other=0)
    earlier = tl.cumsum(hits, axis=0) - hits
    row = tl.broadcast_to(n[:, None].to(tl.int64), (BLOCK_N, BLOCK_E))
    tl.store(order_ptr + starts[None, :] + earlier, row, mask=hits != 0)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_kernel(
    y_ptr: tl.tensor,
    order_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    out_ptr: tl.tensor,
    hidden: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    # One program adds a token's rows in order. Atomic adds of many would finish in any order, with other bits.
    for i in range(tl.load(offsets_ptr + t), tl.load(offsets_ptr + t + 1)):
        row = tl.load(order_ptr + i)
        total += tl.load(y_ptr + row * hidden + d, mask=d < hidden, other=0.0).to(tl.float32)
    tl.store(out_ptr + t * hidden + d, total, mask=d < hidden)

"""The gates on a GPU, each in one Triton kernel: scores, the groups that take part, top-k and normalization.

Both take the largest K times over; among equals the lowest expert comes first, as in torch's own top-k on a GPU, which
gathers the equals of its last place by index. Legend: T tokens, K experts per token, E experts, G groups.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kernels.reference import SigmoidGate, check_gate, check_sigmoid_gate
from kernels.triton.gate_kernels import sigmoid_kernel, softmax_kernel

# Elements that one program holds: few enough to stay in registers.
_TILE = 2048


def gate_topk(logits_TE: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """As `reference.gate_topk`, except that among equal weights the lowest expert comes first.

    A NaN counts as the largest, so ids stay in range and the weights say NaN.
    """
    check_gate(logits_TE, top_k)
    weights_TK, expert_ids_TK = _empty(logits_TE, top_k)
    if len(logits_TE):
        softmax_kernel[_grid(logits_TE)](
            logits_TE.contiguous(), weights_TK, expert_ids_TK, *logits_TE.shape,
            TOP_K=top_k, NORMALIZE=normalize, **_blocks(logits_TE, top_k),
        )  # fmt: skip
    return weights_TK, expert_ids_TK


def gate_sigmoid(logits_TE: Tensor, correction_E: Tensor | None, gate: SigmoidGate) -> tuple[Tensor, Tensor]:
    """As `reference.gate_sigmoid`, in the order of the corrected scores, among equals the lowest expert or group first.

    A NaN counts as the largest, so ids stay in range and the weights say NaN.
    """
    check_sigmoid_gate(logits_TE, gate)
    weights_TK, expert_ids_TK = _empty(logits_TE, gate.top_k)
    if len(logits_TE):
        sigmoid_kernel[_grid(logits_TE)](
            logits_TE.contiguous(), logits_TE if correction_E is None else correction_E.contiguous(), weights_TK,
            expert_ids_TK, *logits_TE.shape, gate.scale, TOP_K=gate.top_k, NORMALIZE=gate.normalize,
            CORRECTED=correction_E is not None, GROUPS=gate.groups, TOP_GROUPS=gate.top_groups,
            BLOCK_G=triton.next_power_of_2(gate.groups), **_blocks(logits_TE, gate.top_k),
        )  # fmt: skip
    return weights_TK, expert_ids_TK


def _empty(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    weights_TK = logits_TE.new_empty(len(logits_TE), top_k, dtype=torch.float32)
    return weights_TK, torch.empty_like(weights_TK, dtype=torch.int64)


def _blocks(logits_TE: Tensor, top_k: int) -> dict[str, int]:
    experts = triton.next_power_of_2(logits_TE.shape[1])
    tokens = max(1, min(16, _TILE // experts))
    return {"BLOCK_T": tokens, "BLOCK_E": experts, "BLOCK_K": triton.next_power_of_2(top_k)}


def _grid(logits_TE: Tensor) -> tuple[int]:
    return (triton.cdiv(len(logits_TE), _blocks(logits_TE, 1)["BLOCK_T"]),)

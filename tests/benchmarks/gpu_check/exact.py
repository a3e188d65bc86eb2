"""The kernels' results in float64, from the values that the kernels are given.

Legend: T tokens, K experts per token, E experts, N rows, D hidden, F ffn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.e2m1 import E2M1
from kernels.formats.mxfp4 import GROUP, Mxfp4
from kernels.formats.quantized import Matrix, RowStack
from kernels.reference import SigmoidGate
from kernels.weights import ExpertForm, ExpertWeights

Rows = tuple[Tensor, Tensor, Tensor]


def expert_ffn(x_TD: Tensor, weights: ExpertWeights, rows: Rows) -> Tensor:
    """y_TD of `Ops.expert_ffn`, with nothing rounded on the way."""
    token_N, expert_N, weight_N = rows
    y_TD = torch.zeros(x_TD.shape, dtype=torch.float64, device=x_TD.device)
    for expert in expert_N.unique().tolist():
        mine = (expert_N == expert).nonzero()[:, 0]
        x_MD, weight_M1 = x_TD[token_N[mine]].double(), weight_N[mine, None].double()
        x_MD = x_MD * weight_M1 if weights.form.weight_inputs else x_MD
        y_MD = _one_expert(x_MD, weights, expert)
        y_TD.index_add_(0, token_N[mine], y_MD if weights.form.weight_inputs else y_MD * weight_M1)
    return y_TD


def _one_expert(x_MD: Tensor, weights: ExpertWeights, expert: int) -> Tensor:
    gate_MF, up_MF = _product(x_MD, weights.gate_up[expert], weights.gate_up_bias, expert).chunk(2, dim=1)
    return _product(_activated(gate_MF, up_MF, weights.form), weights.down[expert], weights.down_bias, expert)


def _product(x_MI: Tensor, w_OI: Matrix, biases: Tensor | None, expert: int) -> Tensor:
    y_MO = x_MI @ matrix(w_OI).T
    return y_MO if biases is None else y_MO + biases[expert].double()


def _activated(gate_MF: Tensor, up_MF: Tensor, form: ExpertForm) -> Tensor:
    if not form.clamped:
        return gate_MF * gate_MF.sigmoid() * up_MF
    gate_MF = gate_MF.clamp(max=form.limit)
    return (up_MF.clamp(-form.limit, form.limit) + 1) * gate_MF * (form.alpha * gate_MF).sigmoid()


def matrix(w_OI: Matrix) -> Tensor:
    """A dense or a quantized matrix [O, I]."""
    if isinstance(w_OI, RowStack):
        return torch.cat([matrix(part) for part in w_OI.parts])
    if isinstance(w_OI, BlockFp8):
        scales = w_OI.scales_BC.double()
        for axis, (height, size) in enumerate(zip(w_OI.block, w_OI.shape, strict=True)):
            scales = scales.repeat_interleave(height, axis).narrow(axis, 0, size)
        return w_OI.values_OI.float().double() * scales
    if isinstance(w_OI, Mxfp4):
        values = torch.tensor([*E2M1, *(-value for value in E2M1)], dtype=torch.float64, device=w_OI.device)
        pairs = torch.stack((w_OI.blocks_OGH & 15, w_OI.blocks_OGH >> 4), dim=-1).long()
        powers = torch.exp2(w_OI.scales_OG.double() - 127).masked_fill(w_OI.scales_OG == 255, float("nan"))
        return (values[pairs].view(*w_OI.scales_OG.shape, GROUP) * powers[..., None]).view(w_OI.shape)
    assert isinstance(w_OI, Tensor)
    return w_OI.double()


def gate_topk(logits_TE: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Weights and experts of `Ops.gate_topk`."""
    weights_TK, ids_TK = logits_TE.double().softmax(-1).topk(top_k)
    return (weights_TK / weights_TK.sum(-1, keepdim=True) if normalize else weights_TK), ids_TK


def gate_sigmoid(logits_TE: Tensor, correction_E: Tensor, gate: SigmoidGate) -> tuple[Tensor, Tensor]:
    """Weights and experts of `Ops.gate_sigmoid`, experts in ascending order."""
    scores_TE = logits_TE.double().sigmoid()
    ranked_TGN = (scores_TE + correction_E.double()).unflatten(1, (gate.groups, -1))
    sums_TG = ranked_TGN.topk(2).values.sum(-1)
    worst_T1 = sums_TG.topk(gate.top_groups).values[:, -1:]
    ranked_TE = ranked_TGN.masked_fill((sums_TG < worst_T1)[..., None], float("-inf")).flatten(1)
    ids_TK = ranked_TE.topk(gate.top_k).indices.sort().values
    weights_TK = scores_TE.gather(1, ids_TK)
    weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True) if gate.normalize else weights_TK
    return weights_TK * gate.scale, ids_TK

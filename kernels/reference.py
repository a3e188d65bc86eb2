"""Every op in plain torch: slow, simple, correct for any shape. The oracle of the other backends.

Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), M rows of one expert, D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats.quantized import Matrix, as_dense
from kernels.weights import PLAIN, ExpertForm, ExpertWeights, Matrices, bias_of, check_rows, check_weights, segments


def gate_topk(logits_TE: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Softmax over all experts in float32, then the `top_k` largest, largest first.

    Returns weights_TK float32 and expert_ids_TK int64. With `normalize` a token's weights are divided by their sum.
    Ties fall as `torch.topk` lets them. The rule of Mixtral and Qwen-MoE. Raises ValueError unless 1 <= top_k <= E.
    """
    check_gate(logits_TE, top_k)
    weights_TK, expert_ids_TK = logits_TE.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    if normalize:
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
    return weights_TK, expert_ids_TK


@dataclass(frozen=True)
class SigmoidGate:
    """The rule of DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): K experts by sigmoid scores from the best groups.

    Of `groups` of consecutive experts only the `top_groups` take part. `normalize` makes a token's weights sum to 1,
    then `scale` multiplies them.
    """

    top_k: int
    groups: int = 1
    top_groups: int = 1
    normalize: bool = True
    scale: float = 1.0


def gate_sigmoid(logits_TE: Tensor, correction_E: Tensor | None, gate: SigmoidGate) -> tuple[Tensor, Tensor]:
    """The experts with the largest corrected scores, in any order; a group's score is the sum of its two best.

    Returns weights_TK float32, from the scores without the correction, and expert_ids_TK int64. Scores are float32, as
    is correction_E. Ties fall as `torch.topk` lets them. Raises ValueError unless 1 <= top_k <= E, and where groups of
    at least two experts do not make up E.
    """
    check_sigmoid_gate(logits_TE, gate)
    return choose_by_scores(logits_TE.float().sigmoid(), correction_E, gate)


def choose_by_scores(scores_TE: Tensor, correction_E: Tensor | None, gate: SigmoidGate) -> tuple[Tensor, Tensor]:
    """What `gate_sigmoid` makes of the scores, float32."""
    choice_TE = scores_TE if correction_E is None else scores_TE + correction_E
    if gate.groups > 1:
        choice_TE = choice_TE.masked_fill(~_in_best_groups(choice_TE, gate), float("-inf"))
    expert_ids_TK = choice_TE.topk(gate.top_k, dim=-1, sorted=False).indices
    weights_TK = scores_TE.gather(1, expert_ids_TK)
    if gate.normalize:
        # The small number as in transformers, for equal results.
        weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20)
    return weights_TK * gate.scale, expert_ids_TK


def _in_best_groups(choice_TE: Tensor, gate: SigmoidGate) -> Tensor:
    """Which experts belong to a token's best groups, bool [T, E]."""
    by_group_TGN = choice_TE.view(choice_TE.shape[0], gate.groups, -1)
    group_scores_TG = by_group_TGN.topk(2, dim=-1).values.sum(dim=-1)
    best = group_scores_TG.topk(gate.top_groups, dim=-1, sorted=False).indices
    chosen_TG = torch.zeros_like(group_scores_TG, dtype=torch.bool).scatter_(1, best, True)
    return chosen_TG.unsqueeze(-1).expand(by_group_TGN.shape).flatten(1)


def check_gate(logits_TE: Tensor, top_k: int) -> None:
    """Raise ValueError unless logits are a matrix and 1 <= top_k <= E."""
    if logits_TE.ndim != 2 or not 1 <= top_k <= logits_TE.shape[1]:
        raise ValueError(f"top_k {top_k} does not fit logits of shape {tuple(logits_TE.shape)}")


def check_sigmoid_gate(logits_TE: Tensor, gate: SigmoidGate) -> None:
    """Raise ValueError where `gate_sigmoid` does."""
    check_gate(logits_TE, gate.top_k)
    experts = logits_TE.shape[1]
    if gate.groups > 1 and (experts % gate.groups or experts // gate.groups < 2):
        raise ValueError(f"{experts} experts are not {gate.groups} equal groups of at least two: see the gate's groups")


def group_by_expert(expert_ids_N: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The stable permutation that sorts rows by expert, and where each expert's rows start.

    Returns order_N int64 (sorted row i is row order_N[i]) and offsets_E1 int64 (expert e owns the sorted rows from
    offsets[e] up to offsets[e+1]). Raises ValueError for an id outside 0..num_experts-1.
    """
    if expert_ids_N.numel() and not 0 <= int(expert_ids_N.min()) <= int(expert_ids_N.max()) < num_experts:
        raise ValueError(f"expert ids must lie in 0..{num_experts - 1}")
    order_N = torch.argsort(expert_ids_N, stable=True)
    counts_E = torch.bincount(expert_ids_N, minlength=num_experts)
    return order_N, F.pad(counts_E.cumsum(0), (1, 0))


def gate_up(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, weight_of_row_N: Tensor, offsets_E1: Tensor
) -> Tensor:
    """h_NF = activation(x W_gate^T + b, x W_up^T + b) for rows sorted by expert, in float32, rounded once to x's dtype.

    Row n reads token token_of_row_N[n], times weight_of_row_N[n] (float32) where the form weights inputs.
    """
    x_ND = x_TD[token_of_row_N]
    if weights.form.weight_inputs:
        x_ND = weighted(x_ND, weight_of_row_N)
    h_NF = x_TD.new_empty(len(x_ND), weights.ffn)
    for expert, start, end in segments(offsets_E1.diff().tolist()):
        bias = bias_of(expert, weights.gate_up_bias)
        gate, up = _product(x_ND[start:end], weights.gate_up[expert], bias).chunk(2, dim=1)
        h_NF[start:end] = activate(gate, up, weights.form)
    return h_NF


def weighted(x_MD: Tensor, weight_M: Tensor) -> Tensor:
    """x times its rows' weights, multiplied in float32 and rounded to x's dtype."""
    return (x_MD.float() * weight_M[:, None]).to(x_MD.dtype)


def activate(gate_MF: Tensor, up_MF: Tensor, form: ExpertForm) -> Tensor:
    """The form's activation, in the dtype of its arguments; NaN stays NaN."""
    if not form.clamped:
        return F.silu(gate_MF) * up_MF
    gate_MF = gate_MF.clamp(max=form.limit)  # only from above: a very negative gate gives 0 by itself
    return torch.sigmoid(gate_MF * form.alpha).mul_(gate_MF).mul_(up_MF.clamp(-form.limit, form.limit).add_(1))


def down(h_NF: Tensor, weights: ExpertWeights, offsets_E1: Tensor, weight_of_row_N: Tensor) -> Tensor:
    """y_ND float32 = (h W_down^T + b) * weight for rows sorted by expert; no weight where the form weights inputs."""
    y_ND = h_NF.new_empty(len(h_NF), weights.hidden, dtype=torch.float32)
    for expert, start, end in segments(offsets_E1.diff().tolist()):
        bias = bias_of(expert, weights.down_bias)
        y_ND[start:end] = _product(h_NF[start:end], weights.down[expert], bias)
    return y_ND if weights.form.weight_inputs else y_ND * weight_of_row_N[:, None]


def sum_rows(y_ND: Tensor, token_of_row_N: Tensor, num_tokens: int) -> Tensor:
    """y_TD float32: the sum of each token's rows, added one by one in row order; zeros for a token without rows."""
    y_TD = y_ND.new_zeros(num_tokens, y_ND.shape[1], dtype=torch.float32)
    # Not index_add_, whose order of additions is unspecified on a GPU: the same input must give the same bits.
    for row, token in enumerate(token_of_row_N.tolist()):
        y_TD[token] += y_ND[row]
    return y_TD


def prepare_weights(
    gate_up: Matrices,
    down: Matrices,
    form: ExpertForm = PLAIN,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> ExpertWeights:
    """All as it is: E of [2F, D] and E of [D, F], stacked or one by one, and biases. ValueError where unfit."""
    return check_weights(ExpertWeights(gate_up, down, form, gate_up_bias, down_bias))


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """y_TD float32: for each token the weighted sum over its rows of that row's expert, zeros without any row.

    x_TD has the dtype of the weights; token_of_row_N and expert_of_row_N are int64, weight_of_row_N float32; rows may
    come in any order. A token's rows are added by ascending expert. Raises ValueError for arguments that do not fit and
    for expert ids out of range, IndexError for tokens out of range.
    """
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    order_N, offsets_E1 = group_by_expert(expert_of_row_N, weights.num_experts)
    token_N = token_of_row_N[order_N]
    weight_N = weight_of_row_N[order_N]
    h_NF = gate_up(x_TD, weights, token_N, weight_N, offsets_E1)
    y_ND = down(h_NF, weights, offsets_E1, weight_N)
    return sum_rows(y_ND, token_N, len(x_TD))


def expert_rows(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """y_ND float32: the weighted output of each row's expert, in the order of the given rows, which may be any.

    Arguments and errors are those of `expert_ffn`, whose result is these rows added up by token. Each row is a product
    of its own here, so its bits do not depend on the other rows.
    """
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    order_N, offsets_E1 = group_by_expert(expert_of_row_N, weights.num_experts)
    y_ND = x_TD.new_empty(len(order_N), weights.hidden, dtype=torch.float32)
    for expert, start, end in segments(offsets_E1.diff().tolist()):
        one, whole = _alone(weights, expert), torch.tensor([0, 1])
        for row in order_N[start:end].tolist():
            token_1, weight_1 = token_of_row_N[row : row + 1], weight_of_row_N[row : row + 1]
            y_ND[row] = down(gate_up(x_TD, one, token_1, weight_1, whole), one, whole, weight_1)[0]
    return y_ND


def _alone(weights: ExpertWeights, expert: int) -> ExpertWeights:
    """One expert, decoded, as a layer of its own."""
    gate_up, down = as_dense(weights.gate_up[expert])[None], as_dense(weights.down[expert])[None]
    biases = (b if b is None else b[expert : expert + 1] for b in (weights.gate_up_bias, weights.down_bias))
    return ExpertWeights(gate_up, down, weights.form, *biases)


def prepare_matrix(w_OI: Matrix, *, gate_up: bool = False) -> Matrix:  # noqa: ARG001 (other layouts need it)
    """The matrix as it is. With `gate_up` it is an expert's gate over its up."""
    return w_OI


def linear(x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """y_MO = x W^T + b in x's dtype; a quantized matrix is decoded whole."""
    return F.linear(x_MI, as_dense(w_OI), bias_O)


def _product(x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None) -> Tensor:
    """x W^T + b in float32."""
    return F.linear(x_MI.float(), as_dense(w_OI).float(), None if bias_O is None else bias_O.float())

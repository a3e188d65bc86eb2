"""From the gate's logits to a routing: each family's rule for choosing experts, as a pure function.

Each takes logits_TE and the gate, and returns weights_TK (float32) and expert_ids_TK (int64). Ties are broken by
`torch.topk`, called as transformers calls it, so that both choose the same experts. T tokens, E experts, K chosen.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experts.routing import LOST, Routing
from kernels.ops import Ops
from kernels.reference import SigmoidGate
from router_service.models.spec import Gate, Rule

Chosen = tuple[Tensor, Tensor]
BEST_SCORES = 16


def route(
    gate: Gate, logits_TE: Tensor, ops: Ops, lost_T: NDArray[np.bool_], correction_E: Tensor | None = None
) -> Routing:
    """Choose each token's experts by the family's rule. Tokens in `lost_T` are sent nowhere.

    Args:
        correction_E: float32, added to the scores when experts are chosen, where the gate has such a correction.
    """
    weights_TK, expert_ids_TK = choose(gate, logits_TE, ops, correction_E)
    ids = expert_ids_TK.cpu().numpy()
    if lost_T.any():
        ids = np.where(lost_T[:, None], LOST, ids)
    return Routing(ids, weights_TK.cpu().numpy())


def choose(gate: Gate, logits_TE: Tensor, ops: Ops, correction_E: Tensor | None = None) -> Chosen:
    """Apply the gate's rule."""
    match gate.rule:
        case Rule.SOFTMAX_TOPK:
            return softmax_topk(logits_TE, gate, ops)
        case Rule.TOPK_SOFTMAX:
            return topk_softmax(logits_TE, gate)
        case Rule.SIGMOID_GROUPS:
            return sigmoid_groups(logits_TE, gate, ops, correction_E)
        case Rule.TOPK_SIGMOID:
            return topk_sigmoid(logits_TE, gate, ops)


def best_scores(gate: Gate, logits_TE: Tensor, chosen_TK: Tensor, correction_E: Tensor | None = None) -> Chosen:
    """Return scores_TN and expert_ids_TN, best first: the 16 best of what the gate ranks by, the chosen among them.

    Softmax or sigmoid over all experts, with the correction where there is one. Groups may keep an expert with a high
    score from being chosen and let one with a low score in; that one takes the place of the 16th.
    """
    scores_TE = gate_scores(gate, logits_TE, correction_E)
    shown = min(max(BEST_SCORES, gate.top_k), scores_TE.shape[-1])
    # The chosen rank first whatever their scores, so that none is missing. LOST is negative and no index, hence the
    # clamp.
    ranked_TE = scores_TE.scatter(1, chosen_TK.clamp(min=0), float("inf"))
    ids_TN = ranked_TE.topk(shown, dim=-1, sorted=False).indices
    scores_TN, order_TN = scores_TE.gather(1, ids_TN).sort(dim=-1, descending=True, stable=True)
    return scores_TN, ids_TN.gather(1, order_TN)


def gate_scores(gate: Gate, logits_TE: Tensor, correction_E: Tensor | None = None) -> Tensor:
    """What the gate's rule ranks the experts by, float32 [T, E]."""
    if gate.rule in (Rule.SOFTMAX_TOPK, Rule.TOPK_SOFTMAX):
        return logits_TE.float().softmax(dim=-1)
    scores_TE = logits_TE.float().sigmoid()
    return scores_TE if correction_E is None else scores_TE + correction_E


def softmax_topk(logits_TE: Tensor, gate: Gate, ops: Ops) -> Chosen:
    """Softmax over all experts, then the K largest: Mixtral (arXiv 2401.04088), Qwen-MoE, OLMoE (arXiv 2409.02060).

    They are made to sum to 1 if the gate says so; softmax over the K largest logits, as Mixtral's paper has it, is the
    same then.
    """
    weights_TK, expert_ids_TK = ops.gate_topk(logits_TE, gate.top_k, gate.normalize)
    return weights_TK, expert_ids_TK


def topk_softmax(logits_TE: Tensor, gate: Gate) -> Chosen:
    """The K largest logits, then softmax over those K, in the logits' dtype: gpt-oss (OpenAI 2025, model card)."""
    top_TK, expert_ids_TK = logits_TE.topk(gate.top_k, dim=-1)
    return top_TK.softmax(dim=-1).float(), expert_ids_TK


def topk_sigmoid(logits_TE: Tensor, gate: Gate, ops: Ops) -> Chosen:
    """The K largest logits, each weighted by its sigmoid, rounded to the logits' dtype: Llama 4 (Meta 2025), K = 1."""
    top_TK, expert_ids_TK = logits_TE.topk(gate.top_k, dim=1)
    return ops.elements.sigmoid(top_TK.float()).to(logits_TE.dtype).float(), expert_ids_TK


def sigmoid_groups(logits_TE: Tensor, gate: Gate, ops: Ops, correction_E: Tensor | None) -> Chosen:
    """Sigmoid scores, corrected for choosing only, from the best groups: DeepSeek-V3, see `SigmoidGate`."""
    rule = SigmoidGate(gate.top_k, gate.groups, gate.top_groups, gate.normalize, gate.scale)
    return ops.gate_sigmoid(logits_TE, correction_E, rule)

"""A gate's choice among living experts: the family's rule with the dead ones masked, and weights without some experts.

T tokens, E experts, K chosen, R rows.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.routing import LOST, Routing
from router_service.models.spec import Gate, Rule

NEVER = float("-inf")
# Of the weights that all experts had together: below it the others' rounding is all that is left.
LEAST_SHARE = 1e-20


def choose_living(gate: Gate, logits_RE: Tensor, dead_E: NDArray[np.bool_], correction_E: Tensor | None) -> Routing:
    """Choose by the gate's rule as if the dead experts ranked behind all others, and weigh as the gate weighs.

    A weight that the gate takes of all experts' softmax keeps that denominator. Where the rule finds fewer than K
    living experts, the places that are left have the id `LOST` and weight 0.

    Args:
        dead_E: which experts have no living copy.
    """
    ranked_RE = _ranked(gate, logits_RE, torch.from_numpy(dead_E).to(logits_RE.device), correction_E)
    top_RK, ids_RK = ranked_RE.topk(gate.top_k, dim=-1)
    gone_RK = top_RK == NEVER
    weights_RK = _weights(gate, logits_RE, top_RK, ids_RK).float().masked_fill(gone_RK, 0.0)
    if gate.normalize and gate.rule in (Rule.SOFTMAX_TOPK, Rule.SIGMOID_GROUPS):
        sums_R1 = weights_RK.sum(-1, keepdim=True)
        weights_RK = (weights_RK / sums_R1).masked_fill(sums_R1 == 0, 0.0)
    if gate.rule is Rule.SIGMOID_GROUPS:
        weights_RK = weights_RK * gate.scale
    return Routing(ids_RK.masked_fill(gone_RK, LOST).cpu().numpy(), weights_RK.cpu().numpy())


def _ranked(gate: Gate, logits_RE: Tensor, dead_E: Tensor, correction_E: Tensor | None) -> Tensor:
    """What the rule ranks the experts by, minus infinity for those that it may not choose."""
    living_RE = logits_RE.masked_fill(dead_E, NEVER)
    if gate.rule in (Rule.TOPK_SOFTMAX, Rule.TOPK_SIGMOID):
        return living_RE
    if gate.rule is Rule.SOFTMAX_TOPK:
        # Among the living only where the sum is divided out: else the dead might leave nothing but zeros of it.
        shares_RE = (living_RE if gate.normalize else logits_RE).softmax(-1, dtype=torch.float32)
        return shares_RE.masked_fill(dead_E, NEVER)
    scores_RE = logits_RE.float().sigmoid()
    ranked_RE = scores_RE if correction_E is None else scores_RE + correction_E
    return _in_living_groups(gate, ranked_RE.masked_fill(dead_E, NEVER))


def _weights(gate: Gate, logits_RE: Tensor, top_RK: Tensor, ids_RK: Tensor) -> Tensor:
    """The chosen experts' weights before they are normalized and scaled, from how they rank."""
    match gate.rule:
        case Rule.SOFTMAX_TOPK:
            return top_RK
        case Rule.TOPK_SOFTMAX:
            return top_RK.softmax(-1)
        case Rule.TOPK_SIGMOID:
            return top_RK.float().sigmoid().to(logits_RE.dtype)
        case Rule.SIGMOID_GROUPS:
            return logits_RE.gather(1, ids_RK).float().sigmoid()


def _in_living_groups(gate: Gate, ranked_RE: Tensor) -> Tensor:
    """The scores, but minus infinity outside the best groups. A group counts by the sum of its two best living experts.

    One that has a single living expert counts by that, one that has none is behind all others.
    """
    if gate.groups == 1:
        return ranked_RE
    by_group_RGN = ranked_RE.view(len(ranked_RE), gate.groups, -1)
    best_RG2 = by_group_RGN.topk(2, dim=-1).values
    sums_RG = best_RG2.masked_fill(best_RG2 == NEVER, 0.0).sum(-1).masked_fill(best_RG2[..., 0] == NEVER, NEVER)
    chosen = sums_RG.topk(gate.top_groups, dim=-1).indices
    in_RG = torch.zeros_like(sums_RG, dtype=torch.bool).scatter_(1, chosen, True)
    return by_group_RGN.masked_fill(~in_RG[..., None], NEVER).flatten(1)


def without(routing: Routing, gone_TK: NDArray[np.bool_]) -> tuple[Routing, NDArray[np.float32]]:
    """Return the routing without the pairs that are gone, and by what each token's other weights were multiplied.

    Scaled so, a token's weights have the sum that they had before; where nothing is left the factor is 0.
    """
    weights_TK = routing.weights_TK.astype(np.float64)
    all_T1 = weights_TK.sum(1, keepdims=True)
    left_T1 = weights_TK.sum(1, keepdims=True, where=~gone_TK)
    some_T1 = left_T1 > LEAST_SHARE * all_T1
    scale_T1 = np.divide(all_T1, left_T1, out=np.zeros_like(left_T1), where=some_T1)
    # A token that loses nothing keeps its bits.
    scale_T1[~gone_TK.any(1)] = 1.0
    kept_TK = np.where(gone_TK, 0.0, weights_TK * scale_T1).astype(np.float32)
    ids_TK = np.where(gone_TK | (scale_T1 == 0), LOST, routing.expert_ids_TK)
    return Routing(ids_TK, kept_TK), scale_T1.astype(np.float32)[:, 0]

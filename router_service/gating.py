"""From the gate's logits to a routing, by the family's rule. T tokens, E experts, K chosen."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experts.routing import LOST, Routing
from kernels.select import Ops
from router_service.models.spec import Gate


def route(gate: Gate, logits_TE: Tensor, ops: Ops, lost_T: NDArray[np.bool_]) -> Routing:
    """Choose each token's experts: softmax over all, the K best, made to sum to 1 where the family does so.

    That is Qwen3-MoE's rule, and Mixtral's (softmax over the K best logits) is the same with `normalize`. Tokens in
    `lost_T` are sent nowhere.
    """
    weights_TK, expert_ids_TK = ops.gate_topk(logits_TE, gate.top_k, gate.normalize)
    ids = expert_ids_TK.cpu().numpy()
    if lost_T.any():
        ids = np.where(lost_T[:, None], LOST, ids)
    return Routing(ids, weights_TK.cpu().numpy())

"""Top-k, top-p and min-p: which tokens of a row may be drawn. N candidates of a row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from router_service.engine.sampling.rows import SampleRow
from router_service.protocol.messages import SamplingParams

# Equal logits that the quick way of ordering may meet at the last place: a half-precision head makes many.
MORE_CANDIDATES = 64
# Filters rarely keep more, and ordering these is much cheaper than sorting the vocabulary.
FIRST_CANDIDATES = 1024


def filtered_candidates(logits_BV: Tensor, rows: Sequence[SampleRow]) -> tuple[Tensor, Tensor]:
    """Return weights_BN, 0 for what the filters drop, and ids_BN, best first.

    The best candidates are considered first, and all tokens only if some row's filters reach beyond them.
    """
    probs_BV = logits_BV.softmax(-1)
    for count in (FIRST_CANDIDATES, logits_BV.shape[1]):
        ids_BN, complete = best_candidates(logits_BV, count), count >= logits_BV.shape[1]
        probs_BN = probs_BV.gather(1, ids_BN)
        kept_BN = _keep(probs_BN, rows)
        if complete or not (bool(kept_BN[:, -1].any()) or any(_needs_mass(row.params, count) for row in rows)):
            break
    return probs_BN * kept_BN, ids_BN


def best_candidates(logits_BV: Tensor, count: int) -> Tensor:
    """Return ids [B, count] of the best logits, best first, equal ones by id: an order that no batch can change."""
    size = logits_BV.shape[1]
    if not count:
        return torch.empty((len(logits_BV), 0), dtype=torch.int64, device=logits_BV.device)
    if size > count + MORE_CANDIDATES:
        best = logits_BV.topk(count + MORE_CANDIDATES, dim=-1)
        # `topk` takes any of equal logits. Where none is left out, the few that it found can be put in order.
        # The order of what is ruled out does not matter.
        worst_B = best.values[:, count - 1]
        if bool(((best.values[:, -1] < worst_B) | (worst_B == -torch.inf)).all()):
            return best.indices.gather(1, _ordered(best.values, best.indices, size, count))
    everything_BV = torch.arange(size, device=logits_BV.device).expand(len(logits_BV), -1)
    return _ordered(logits_BV, everything_BV, size, min(count, size))


def _ordered(logits_BN: Tensor, ids_BN: Tensor, size: int, count: int) -> Tensor:
    """The places [B, count] of the best logits, best first, equal ones by id.

    A float's bits, flipped where it is negative, compare as the float does; the id below them makes each key unique.
    """
    bits_BN = logits_BN.view(torch.int32).long()
    ordered_BN = torch.where(bits_BN < 0, bits_BN ^ 0x7FFFFFFF, bits_BN)
    return ((ordered_BN << 32) | (size - 1 - ids_BN)).topk(count, dim=-1).indices


def _needs_mass(params: SamplingParams, count: int) -> bool:
    """Whether top_p is a share of what top_k leaves, and that is more than `count` candidates."""
    return params.top_k > count and params.top_p < 1


def _keep(probs_BN: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Which candidates survive top_k, then top_p over what top_k left (Holtzman et al. 2020), then min_p."""
    device, count = probs_BN.device, probs_BN.shape[1]
    top_k_B1 = torch.tensor([[row.params.top_k or count + 1] for row in rows], device=device)
    top_p_B1 = torch.tensor([[row.params.top_p] for row in rows], device=device)
    min_p_B1 = torch.tensor([[row.params.min_p] for row in rows], device=device)
    kept_BN = torch.arange(count, device=device) < top_k_B1
    mass_B1 = torch.where(top_k_B1 > count, 1.0, (probs_BN * kept_BN).sum(-1, keepdim=True))
    before_BN = probs_BN.cumsum(-1) - probs_BN
    kept_BN &= (before_BN < top_p_B1 * mass_B1) | (top_p_B1 >= 1)
    # What is ruled out is no candidate, or all tokens would have to be looked at for it.
    kept_BN &= (probs_BN >= min_p_B1 * probs_BN[:, :1]) & (probs_BN > 0)
    # Whatever the filters and their rounding, one token must remain.
    kept_BN[:, 0] = True
    return kept_BN

"""How many experts of each layer a shard may hold, out of its budget for all layers. L layers, S shards."""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def quotas(wanted_L: Counts, slots_S: Counts, most_LS: Counts) -> Counts:
    """Divide the shards' slots among layers, [L, S]: in proportion to what each layer wants, whole slots.

    Each layer gets at least what it wants, if all want no more than there is. Slots that nobody wants are divided
    likewise: room to pack better.

    Args:
        wanted_L: copies of experts that are to be placed in each layer.
        slots_S: copies that each shard holds in all layers.
        most_LS: a shard holds no expert of a layer twice, so this is the most it can use in each.
    """
    left_S, quotas_LS = slots_S.copy(), np.zeros_like(most_LS)
    behind_L = np.maximum(np.cumsum(wanted_L[::-1])[::-1], 1)
    behind_LS = np.cumsum(most_LS[::-1], axis=0)[::-1]
    for layer, wanted in enumerate(wanted_L):
        ideal_S = np.minimum(left_S, behind_LS[layer]) * (wanted / behind_L[layer])
        most_S = np.minimum(left_S, most_LS[layer])
        quotas_LS[layer] = _rounded(ideal_S, most_S, max(int(wanted), int(ideal_S.sum())))
        left_S -= quotas_LS[layer]
    return quotas_LS


def _rounded(ideal_S: NDArray[np.float64], most_S: Counts, total: int) -> Counts:
    """Whole numbers near the ideal ones, none above its most, that add up to `total` where that is possible."""
    given_S: Counts = np.minimum(ideal_S.astype(np.int64), most_S)
    while (missing := total - int(given_S.sum())) > 0 and (given_S < most_S).any():
        behind_S = np.where(given_S < most_S, ideal_S - given_S, -np.inf)
        open_now = min(missing, int((given_S < most_S).sum()))
        given_S[np.argsort(-behind_S, kind="stable")[:open_now]] += 1
    return given_S

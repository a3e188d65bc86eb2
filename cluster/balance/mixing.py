"""Of several plans, the best for each layer, as far as the shards' memory allows. L layers, E experts, S shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.balance.layout import Bools, Counts, Floats


@dataclass(frozen=True, slots=True)
class Option:
    """A plan: who holds what, and each layer's slowest shard's time and its loads' price; infinite if unfit."""

    held_LES: Bools
    score_L: Floats


def mixed(plans: Sequence[Option], others: Sequence[Option], slots_S: Counts) -> Option:
    """Return the best plan of which layers were replaced, where that is better, by those of the others.

    Args:
        plans: plans that fit into the slots, the first the one to take where all are as good.
        others: more plans, which need not.
    """
    mixes = [_improved(plan, [*plans, *others], slots_S) for plan in plans]
    return min(mixes, key=lambda mix: float(mix.score_L.sum()))


def _improved(plan: Option, others: Sequence[Option], slots_S: Counts) -> Option:
    """Replace layers of a plan, those that gain most first, while the shards have room."""
    held_LES, score_L = plan.held_LES.copy(), plan.score_L.copy()
    used_S = held_LES.sum(axis=(0, 1))
    gains = np.stack([score_L - other.score_L for other in others])
    for place in np.argsort(-gains, axis=None, kind="stable").tolist():
        which, layer = divmod(place, len(score_L))
        other = others[which]
        if other.score_L[layer] >= score_L[layer]:
            continue
        after_S = used_S + other.held_LES[layer].sum(axis=0) - held_LES[layer].sum(axis=0)
        if (after_S <= slots_S).all():
            held_LES[layer], score_L[layer], used_S = other.held_LES[layer], other.score_L[layer], after_S
    return Option(held_LES, score_L)

"""Which shards are to hold which experts: from what was routed and what the shards can hold. A pure function."""

import heapq
from collections.abc import Sequence

import numpy as np

from cluster.balance.prediction import predicted_gain
from cluster.balance.supply import Supply
from experts.demand import Demand
from experts.placement import LayerPlacement, Placement, even_placement


def plan_placement(
    demand: Demand, supply: Supply, current: Placement | None = None, *, worth: float = 0.02
) -> Placement:
    """Return a placement whose slowest shard is faster than that of `current`, or `current` itself.

    Args:
        current: what the shards hold now; none at the start.
        worth: the part of the slowest shard's time that loading as many copies as there are experts, E of each layer,
            must save. A plan that saves less for what it loads is not made.

    Returns:
        A placement with the epoch of `current`, `special` naming every layer of the demand.

    Raises:
        ValueError: the usable shards are fewer than `supply.copies` or cannot hold that many copies of each expert.
    """
    layers, experts = demand.tokens_LE.shape
    usable = [int(shard) for shard in np.flatnonzero(supply.usable_S)]
    check_supply(supply, layers, experts)
    shards = max(current.shards if current else 0, len(supply.slots_S))
    free_S = supply.slots_S // max(layers, 1)
    special = {
        layer: _packed(demand.tokens_LE[place], usable, free_S, supply) for place, layer in enumerate(demand.layers)
    }
    everywhere = current.everywhere if current else even_over(experts, usable, supply.copies)
    planned = Placement(shards, everywhere, special, epoch=current.epoch if current else 0)
    if current and current.holding <= set(usable) and predicted_gain(demand, current, planned, supply.costs) <= worth:
        return current
    return planned


def check_supply(supply: Supply, layers: int, experts: int) -> None:
    """Refuse a supply that cannot hold what it asks for."""
    usable, slots = int(supply.usable_S.sum()), int(np.minimum(supply.slots_S, layers * experts).sum())
    if not 1 <= supply.copies <= usable:
        raise ValueError(f"copies is {supply.copies}, it must be from 1 to {usable}, the number of usable shards")
    if slots < (least := layers * experts * supply.copies):
        raise ValueError(f"slots_S holds {slots} copies of experts, {supply.copies} of each take {least}: add memory")


def even_over(experts: int, usable: Sequence[int], copies: int) -> LayerPlacement:
    """An even placement over some of the shards; over the first of them where there are more than experts."""
    usable = usable[:experts]
    even = even_placement(experts, len(usable), copies).everywhere
    return LayerPlacement(tuple(tuple(usable[shard] for shard in shards) for shards in even.holders))


def _packed(tokens_E: np.ndarray, usable: list[int], slots_S: np.ndarray, supply: Supply) -> LayerPlacement:
    """Largest first, each to the lightest shards with room."""
    heap = [(0.0, shard) for shard in usable]
    room = {shard: int(slots_S[shard]) for shard in usable}
    holders: dict[int, tuple[int, ...]] = {}
    for expert in np.argsort(-tokens_E, kind="stable"):
        taken = [heapq.heappop(heap) for _ in range(min(supply.copies, len(heap)))]
        holders[int(expert)] = tuple(shard for _, shard in taken)
        for load, shard in taken:
            room[shard] -= 1
            if room[shard] > 0:
                heapq.heappush(heap, (load + float(tokens_E[expert]) / len(taken), shard))
    return LayerPlacement(tuple(holders[expert] for expert in range(len(tokens_E))))

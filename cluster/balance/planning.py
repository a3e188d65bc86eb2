"""Which shards are to hold which experts: from what was routed and what the shards can hold. A pure function.

Two plans are made: a fresh one, whose shards are then named so that it is most like what is held now, and one that
starts from what is held now. Each layer takes from them, or from what it has, what saves most after its loads' price.
L MoE layers, E experts, S shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.balance.moves import moves
from cluster.balance.plans.adapting import adapted
from cluster.balance.plans.fresh import fresh
from cluster.balance.plans.layout import Bools, Layout, Terrain, anyhow, held_of, placed
from cluster.balance.plans.matching import match
from cluster.balance.plans.mixing import Option, mixed
from cluster.balance.plans.weights import weights
from cluster.balance.prediction import Replayer
from cluster.balance.supply import Supply
from experts.costs import ShardCosts
from experts.demand import Demand
from experts.placement import LayerPlacement, Placement, placement_of_layers

FEW_STEPS, MANY_STEPS = 4, 12  # of the sample, that compare the plans; and that decide whether one is made
FEW_TRIES, MANY_TRIES = 4, 30  # of a fresh plan, where there is a placement to start from; and where there is none
HUDDLED = 1e9  # microseconds that an expert on too few nodes counts for: no time makes up for it


def plan_placement(
    demand: Demand, supply: Supply, current: Placement | None = None, *, worth: float = 0.02
) -> Placement:
    """Return a placement whose slowest shard is faster than that of `current`, or `current` itself.

    Args:
        current: what the shards hold now; none at the start.
        worth: the part of the slowest shard's time that loading as many copies as there are experts, E of each layer,
            must save; a plan that loads a tenth of them must save a tenth of it. 0 takes any gain.

    Returns:
        A placement with the epoch of `current`, `special` naming every layer of the demand: all MoE layers.

    Raises:
        ValueError: the usable shards are fewer than `supply.copies` or cannot hold that many copies of each expert.
    """
    layers, experts = demand.tokens_LE.shape
    check_supply(supply, layers, experts)
    supply = _for_shards(supply, max(current.shards if current else 0, len(supply.slots_S)))
    terrain = _terrain(demand, supply)
    before = [current.layer(layer) if current else None for layer in demand.layers]
    task = _Task(demand, supply, terrain, worth)
    layout, kept = _best(task, [layer for layer in before if layer])
    layers_placed = dict(zip(demand.layers, placed(layout, before), strict=True))
    planned = placement_of_layers(len(supply.slots_S), layers_placed, current.epoch if current else 0)
    if current and kept and _stands(current, supply) and not _deserved(task, current, planned):
        return current
    return planned


def check_supply(supply: Supply, layers: int, experts: int) -> None:
    """Refuse a supply that cannot hold what it asks for."""
    usable, slots = int(supply.usable_S.sum()), int(np.minimum(supply.slots_S, layers * experts).sum())
    if not 1 <= supply.copies <= usable:
        raise ValueError(f"copies is {supply.copies}, it must be from 1 to {usable}, the number of usable shards")
    if slots < (least := layers * experts * supply.copies):
        raise ValueError(f"slots_S holds {slots} copies of experts, {supply.copies} of each take {least}: add memory")


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked."""

    demand: Demand
    supply: Supply
    terrain: Terrain
    worth: float


def _best(task: _Task, before: Sequence[LayerPlacement]) -> tuple[Layout, bool]:
    """The best mix of the plans and of what is held now, and whether that could stay as it is."""
    terrain, slots_S = task.terrain, task.supply.slots_S
    replayer = Replayer(task.demand, task.supply.costs, steps=FEW_STEPS)
    tries = FEW_TRIES if before else MANY_TRIES
    news = [_option(replayer, terrain, layout.held_LES, counts) for layout, counts in fresh(terrain, slots_S, tries)]
    new = mixed(news, [], slots_S)
    if not before:
        return terrain.layout(new.held_LES), False
    now_LES, now_us_L = held_of(before, len(slots_S)), replayer.slowest_L(before)
    price = task.worth * float(now_us_L.mean()) / now_LES.shape[1]
    match(terrain, new.held_LES, now_LES)
    plans = [new, *(_option(replayer, terrain, held_LES) for held_LES in adapted(terrain, slots_S, now_LES, price))]
    options = [_priced(plan, now_LES, price) for plan in plans]
    now_us_L = np.where(terrain.allows(now_LES), now_us_L + HUDDLED * terrain.huddled(now_LES), np.inf)
    now = Option(now_LES, now_us_L)
    kept = bool(np.isfinite(now.score_L).all() and (now_LES.sum(axis=(0, 1)) <= slots_S).all())
    return terrain.layout(mixed([now, *options] if kept else options, [now], slots_S).held_LES), kept


def _option(replayer: Replayer, terrain: Terrain, held_LES: Bools, counts: float = 1.0) -> Option:
    """A plan with its time, which counts so much."""
    return Option(held_LES, counts * replayer.slowest_L(anyhow(held_LES)) + HUDDLED * terrain.huddled(held_LES))


def _priced(plan: Option, now_LES: Bools, price: float) -> Option:
    """The plan with its loads' price beside its time."""
    return Option(plan.held_LES, plan.score_L + price * (plan.held_LES & ~now_LES).sum(axis=(1, 2)))


def _deserved(task: _Task, current: Placement, planned: Placement) -> bool:
    """Whether the replay gains what the loads must save, or copies come to be on different nodes."""
    layers = task.demand.layers
    before, after = ([placement.layer(layer) for layer in layers] for placement in (current, planned))
    huddled = [int(task.terrain.huddled(held_of(held, planned.shards)).sum()) for held in (before, after)]
    if huddled[1] < huddled[0]:
        return True
    replayer = Replayer(task.demand, task.supply.costs, MANY_STEPS)
    now_us, then_us = (float(replayer.slowest_L(held).sum()) for held in (before, after))
    loads = moves(current, planned, layers).added / task.demand.tokens_LE.size
    return then_us < now_us and 1 - then_us / now_us >= task.worth * loads


def _terrain(demand: Demand, supply: Supply) -> Terrain:
    """What does not change while the plan is made."""
    names = [supply.nodes_S[shard] for shard in np.flatnonzero(supply.usable_S)]
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    node_S = np.array([number.get(name, 0) for name in supply.nodes_S])
    weight_LE, slow_S = weights(demand, supply.costs, supply.usable_S)
    return Terrain(weight_LE, slow_S, supply.usable_S, node_S, supply.copies, min(supply.copies, len(number)))


def _for_shards(supply: Supply, shards: int) -> Supply:
    """The supply with further shards that hold nothing, up to `shards`."""
    more = shards - len(supply.slots_S)
    if not more:
        return supply
    call, expert, pair = (
        np.pad(us_S, (0, more), mode="edge")
        for us_S in (supply.costs.call_us_S, supply.costs.expert_us_S, supply.costs.pair_us_S)
    )
    slots_S, nodes_S = np.pad(supply.slots_S, (0, more)), (*supply.nodes_S, *[""] * more)
    return Supply(slots_S, ShardCosts(call, expert, pair), nodes_S, supply.copies, supply.expert_bytes)


def _stands(placement: Placement, supply: Supply) -> bool:
    """Whether what the placement names beside the layers of the demand is right, too: it may be a map of no layers."""
    named = {shard for shards in placement.everywhere.blocks for shard in shards}
    return placement.everywhere.copies >= supply.copies and bool(supply.usable_S[sorted(named)].all())

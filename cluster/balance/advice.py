"""Whether copies of experts would pay: from what was routed, for people. Pure.

L MoE layers, E experts, S shards.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster.balance.advice_report import HOT, MOST_HOT, Advice, CopiesGain, HotLayer, mib
from cluster.balance.judging.loads import too_few
from cluster.balance.moves import holds, moves
from cluster.balance.planning import plan_placement
from cluster.balance.prediction import predicted_gain, replay
from cluster.balance.supply import Supply
from experts.balance import max_over_mean
from experts.demand import Demand
from experts.placement import Placement

Planner = Callable[[Demand, Supply, Placement], Placement]
# Copies that each shard holds of each layer beside its own experts, as far as the curve goes.
CURVE = (0, 1, 2, 4, 8)
# Gains under this are within what traffic changes from minute to minute.
WORTH = 0.05
# Each further copy a shard and layer must save this much more for the memory that it takes.
STEP = 0.01
# Below this part of the imbalance that is still there in the next window, heat passes.
LASTING = 0.5


class TooLittleError(ValueError):
    """Too little was routed to say anything; the message says how much would do."""


def advise(windows: Sequence[Demand], supply: Supply, current: Placement, plan: Planner = plan_placement) -> Advice:
    """Say whether copies would pay, from demands of times that follow each other, the oldest first.

    Raises:
        TooLittleError: too little was routed.
        ValueError: the windows are of different layers or experts.
    """
    whole = joined(windows)
    if few := too_few(whole):
        raise TooLittleError(f"{few}: serve more first, or record for longer")
    halves = joined(windows[: len(windows) // 2]), joined(windows[len(windows) // 2 :])
    curve = [_gain_of(extra, whole, halves, supply, current, plan) for extra in CURVE]
    persistence = _persistence(halves)
    recommendation, reason, extra = _recommended(curve, persistence)
    replayed = replay(whole, current, supply.costs)
    return Advice(
        recommendation=recommendation,
        reason=reason,
        extra_copies=extra,
        seconds=whole.seconds,
        tokens=_tokens(whole),
        shard_imbalance=_shard_imbalance(whole, current),
        shard_time_imbalance=replayed.slowest_us / replayed.mean_us if replayed.mean_us else 1.0,
        expert_imbalance=float(max_over_mean(whole.tokens_LE).mean()),
        persistence=persistence,
        hot=_hot(whole),
        curve=curve,
    )


def joined(windows: Sequence[Demand]) -> Demand:
    """One demand of several of the same layers; an empty one of none.

    Raises:
        ValueError: they are of different layers or experts.
    """
    if not windows:
        return Demand((), np.zeros((0, 0), np.int64), 0.0)
    if len({(one.layers, one.tokens_LE.shape) for one in windows}) > 1:
        raise ValueError("the windows are of different layers or experts: take those of one model")
    tokens_LE = np.sum([one.tokens_LE for one in windows], axis=0)
    batches = tuple(batch for one in windows for batch in one.batches)
    return Demand(windows[0].layers, tokens_LE, sum(one.seconds for one in windows), batches)


def _gain_of(
    extra: int, whole: Demand, halves: tuple[Demand, Demand], supply: Supply, current: Placement, plan: Planner
) -> CopiesGain:
    layers, experts = whole.tokens_LE.shape
    usable = int(supply.usable_S.sum())
    own = -(-experts * supply.copies // max(1, usable))
    slots_S = np.where(supply.usable_S, layers * min(experts, own + extra), 0)
    with_extra = replace(supply, slots_S=slots_S)
    planned = plan(whole, with_extra, current)
    early, late = halves
    lasting = 0.0
    if len(early.layers) and len(late.layers):
        lasting = predicted_gain(late, current, plan(early, with_extra, current), supply.costs)
    work = moves(current, planned, whole.layers, supply.expert_bytes)
    more = sum(int(holds(planned.layer(layer), planned.shards).sum()) for layer in whole.layers) - layers * experts
    gain = predicted_gain(whole, current, planned, supply.costs)
    return CopiesGain(extra, gain, lasting, more * supply.expert_bytes, work.bytes)


def _recommended(curve: list[CopiesGain], persistence: float) -> tuple[str, str, int]:
    best = curve[0]
    for one in curve[1:]:
        more = min(one.gain, one.lasting_gain) - min(best.gain, best.lasting_gain)
        if more >= STEP * (one.extra_copies - best.extra_copies):
            best = one
    saved = f"{best.gain:.1%} of the slowest shard's time, {best.lasting_gain:.1%} when traffic goes on"
    heat = f"{persistence:.0%} of the experts' imbalance stays from one half of the time to the other"
    if best.gain < WORTH:
        return "leave", f"the best placement would save {saved}: not worth a move", 0
    if best.lasting_gain < WORTH:
        return "leave", f"heat passes: the best placement would save {saved}; {heat}", 0
    if persistence < LASTING:
        heat += ": heat passes, what is saved is from evening out single steps"
    if not best.extra_copies:
        return "move", f"moving experts, without extra copies, saves {saved}; {heat}", 0
    cost = f"for {mib(best.memory_bytes)} in all"
    return (
        "copies",
        f"{best.extra_copies} extra copies a shard and layer save {saved}, {cost}; {heat}",
        best.extra_copies,
    )


def _persistence(halves: tuple[Demand, Demand]) -> float:
    """The correlation of the experts' shares between the two halves, the mean over layers, at least 0."""
    if not all(len(one.layers) and one.tokens_LE.any() for one in halves):
        return 0.0
    early_LE, late_LE = (_excess(one.tokens_LE) for one in halves)
    norms_L = np.sqrt((early_LE**2).sum(axis=1) * (late_LE**2).sum(axis=1))
    common_L = np.divide((early_LE * late_LE).sum(axis=1), norms_L, out=np.zeros(len(norms_L)), where=norms_L > 0)
    return float(np.clip(common_L, 0.0, 1.0).mean())


def _excess(tokens_LE: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each expert's share of its layer's tokens, over the even one."""
    share_LE = tokens_LE / np.maximum(1, tokens_LE.sum(axis=1, keepdims=True))
    return np.asarray(share_LE - share_LE.mean(axis=1, keepdims=True))


def _hot(demand: Demand) -> list[HotLayer]:
    ratios_LE = demand.tokens_LE / np.maximum(1e-9, demand.tokens_LE.mean(axis=1, keepdims=True))
    hottest = np.argsort(-ratios_LE.max(axis=1), kind="stable")[:MOST_HOT]
    layers = []
    for place in sorted(hottest.tolist()):
        order = np.argsort(-ratios_LE[place], kind="stable")[:MOST_HOT]
        experts = [int(expert) for expert in order if ratios_LE[place, expert] >= HOT]
        if experts:
            layers.append(HotLayer(demand.layers[place], float(ratios_LE[place].max()), experts))
    return layers


def _shard_imbalance(demand: Demand, current: Placement) -> float:
    """Largest over mean load of the shards that hold experts, copies sharing evenly; the mean over layers."""
    ratios = []
    for place, layer in enumerate(demand.layers):
        held_ES = holds(current.layer(layer), current.shards)
        load_S = demand.tokens_LE[place] @ (held_ES / held_ES.sum(axis=1, keepdims=True))
        load_S = load_S[held_ES.any(axis=0)]
        ratios.append(float(load_S.max() / load_S.mean()) if load_S.any() else 1.0)
    return float(np.mean(ratios))


def _tokens(demand: Demand) -> int:
    """Tokens, as far as can be told without K: the sampled steps' share of pairs says how many experts one has."""
    experts_per_token = next((batch.expert_ids_LTK.shape[2] for batch in demand.batches), 1)
    return int(demand.tokens_LE.sum(axis=1).max() // experts_per_token)

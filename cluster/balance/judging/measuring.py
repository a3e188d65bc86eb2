"""What a move gave, from what routers report behind it."""

from collections.abc import Sequence

import numpy as np

from cluster.balance.judging.loads import TimedLoad, merged, too_few
from cluster.balance.prediction import predicted_gain
from experts.costs import ShardCosts
from experts.demand import Demand
from experts.placement import Placement

# Traffic counts as the same while so little of it has gone over to other experts, and calls are as large.
SAME_EXPERTS, SAME_SIZE = 0.05, 0.1


def measured_gain(
    before: Sequence[TimedLoad],
    after: Sequence[TimedLoad],
    old: Placement,
    new: Placement,
    costs: ShardCosts,
) -> float | None:
    """The part of the slowest shard's time that a move saved; None while too little was routed behind it.

    Where the traffic has stayed the same, what routers say of their calls before and behind the move is compared, call
    by call as they were asked, copies chosen. Else that would measure the traffic: instead the new traffic is replayed
    on the placement from before, which says what it would cost without the move.

    Args:
        before: reports of a time before the move, of the old placement's epoch.
        after: reports of as long a time behind it, of the new one's.
    """
    now = merged(after)
    if too_few(now):
        return None
    assert now is not None
    then = merged(before)
    reported = _reported(before), _reported(after)
    if then is not None and all(reported) and same_traffic(then, now):
        return 1.0 - reported[1] / reported[0]
    return predicted_gain(now, old, new, costs)


def same_traffic(one: Demand, other: Demand) -> bool:
    """Whether the same experts get the same part of the tokens, and steps are about as large."""
    if one.tokens_LE.shape != other.tokens_LE.shape:
        return False
    size, other_size = _size(one), _size(other)
    return moved_share(one, other) <= SAME_EXPERTS and abs(size - other_size) <= SAME_SIZE * max(size, other_size)


def moved_share(one: Demand, other: Demand) -> float:
    """The part of the tokens that go to other experts in `other`, the mean over layers: 0 to 1."""
    shares = [demand.tokens_LE / np.maximum(1, demand.tokens_LE.sum(axis=1, keepdims=True)) for demand in (one, other)]
    return float(np.abs(shares[0] - shares[1]).sum(axis=1).mean() / 2)


def _size(demand: Demand) -> float:
    return float(np.mean([batch.expert_ids_LTK.shape[1] for batch in demand.batches])) if demand.batches else 0.0


def _reported(loads: Sequence[TimedLoad]) -> float:
    """The slowest shard's microseconds a call, as routers model their calls; 0 where they say nothing."""
    calls = sum(one.load.calls for one in loads)
    return sum(one.load.slowest_us for one in loads) / calls if calls else 0.0

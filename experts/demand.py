"""What was routed: the planner's input. L MoE layers, E experts, S shards, T tokens, K experts per token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experts.costs import ShardCosts

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RoutedBatch:
    """One engine step as the gate saw it: `expert_ids_LTK` int16, -1 where an expert was lost; L as `Demand.layers`."""

    expert_ids_LTK: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Demand:
    """The tokens of each expert of each MoE layer, [L, E], in `seconds`, and a sample of the steps they came in.

    `layers` are the model's numbers of the MoE layers. What experts are chosen together is read from the sample.
    """

    layers: tuple[int, ...]
    tokens_LE: Counts
    seconds: float
    batches: Sequence[RoutedBatch] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class RoutedLoad:
    """What one router has routed since its last report, as it reports it to the control plane.

    `calls`, `slowest_us` and `mean_us` are sums over its layer calls: the modelled time (`experts.costs`) of the
    shard that was asked for most, and of the mean of those that were asked. `costs` are those by which it models, and
    `suspect` the shards that it cannot rely on now. Where it changed to another placement meanwhile, `epoch` is of the
    one before.
    """

    router: str
    epoch: int
    demand: Demand
    calls: int = 0
    slowest_us: float = 0.0
    mean_us: float = 0.0
    costs: ShardCosts | None = None
    suspect: tuple[int, ...] = ()

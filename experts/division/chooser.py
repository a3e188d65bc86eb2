"""The fast way to choose holders, by the native library where it was built; `choosing` is the plain one.

E experts, S shards, P places (an expert at a holder).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experts.costs import ShardCosts
from experts.division.choosing import Choice, Split, choose
from experts.division.pairs import PairDivision, divide, divided
from experts.placement import LayerPlacement
from experts.routing import LOST, Routing
from kernels.native.choice import NativeChoice
from kernels.native.library import available


class Chooser:
    """Chooses for the batches of one router's layers, as `costs` say, which may be replaced at any time.

    Args:
        native: whether the native library chooses; by default where it is there. Both decide the same.
    """

    def __init__(self, costs: ShardCosts, native: bool | None = None) -> None:
        self.costs = costs
        self._native = native
        # By identity: a placement's layers live as long as it, and hashing one takes longer than choosing.
        self._layers: dict[int, _Layer] = {}

    def choose(self, ids_TK: NDArray[np.int64], layer: LayerPlacement, ranks: list[int]) -> Choice | None:
        """Who is asked for the experts `ids_TK`, of which `LOST` ones are nobody's; None where each has one holder.

        Args:
            ranks: of each shard; of an expert's holders only those of the lowest one are asked.
        """
        if not layer.shared:
            return None
        if not self._fast:
            chosen = ids_TK[ids_TK != LOST]
            return choose(np.bincount(chosen, minlength=layer.experts), layer, self.costs, ranks)
        return self._layer(layer).choose(ids_TK, ranks, self.costs)

    def divide(self, routing: Routing, layer: LayerPlacement, ranks: list[int]) -> PairDivision:
        """Divide a routing by whom to ask; `ranks` may be empty where each expert has one holder."""
        if self._fast:
            return self._layer(layer).divide(routing, ranks, self.costs)
        return divide(routing, layer, self.choose(routing.expert_ids_TK, layer, ranks))

    def forget(self) -> None:
        """There is a new placement."""
        self._layers.clear()

    @cached_property
    def _fast(self) -> bool:
        return available() if self._native is None else self._native

    def _layer(self, layer: LayerPlacement) -> "_Layer":
        known = self._layers.get(id(layer))
        if known is None or known.layer is not layer:
            known = self._layers[id(layer)] = _Layer(layer, len(self.costs.call_us_S))
        return known


class _Layer:
    """A layer's holders as the native library reads them."""

    def __init__(self, layer: LayerPlacement, shards: int) -> None:
        self.layer = layer
        counts_E = [len(holders) for holders in layer.holders]
        self._holders_P = np.array([shard for holders in layer.holders for shard in holders], np.int32)
        self._expert_of_P = np.repeat(np.arange(layer.experts), counts_E)
        starts_E1 = np.cumsum([0, *counts_E], dtype=np.int32)
        self._native = NativeChoice(starts_E1, self._holders_P, layer.block_of_E.astype(np.int32), shards)
        self._costs: ShardCosts | None = None

    def choose(self, ids_TK: NDArray[np.int64], ranks: list[int], costs: ShardCosts) -> Choice:
        """See `Chooser`."""
        split = self._by(costs).choose(ids_TK, ranks)
        return Choice(self._native.shard_of_E.copy(), self._splits() if split else ())

    def divide(self, routing: Routing, ranks: list[int], costs: ShardCosts) -> PairDivision:
        """See `Chooser`."""
        found = self._by(costs).divide(routing.expert_ids_TK, routing.weights_TK, ranks)
        return divided(routing, self.layer, found)

    def _by(self, costs: ShardCosts) -> NativeChoice:
        if costs is not self._costs:
            self._native.set_costs(costs.call_us_S, costs.expert_us_S, costs.pair_us_S)
            self._costs = costs
        return self._native

    def _splits(self) -> tuple[Split, ...]:
        places = np.flatnonzero(self._native.given_P)
        experts = self._expert_of_P[places]
        several = np.bincount(experts)[experts] > 1
        places, experts = places[several], experts[several]
        columns: Sequence[list[int]] = (
            experts.tolist(),
            self._holders_P[places].tolist(),
            self._native.given_P[places].tolist(),
        )
        return tuple(map(Split, *columns))

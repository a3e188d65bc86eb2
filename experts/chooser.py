"""The fast way to choose holders, `experts.choosing` being the plain one: natively where the library was built.

E experts, S shards, N places (an expert at a holder).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experts.choosing import Choice, Split, choose
from experts.costs import ShardCosts
from experts.placement import LayerPlacement
from experts.routing import LOST
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
        return self._layer(layer, len(ranks)).choose(ids_TK, ranks, self.costs)

    def forget(self) -> None:
        """There is a new placement."""
        self._layers.clear()

    @cached_property
    def _fast(self) -> bool:
        return available() if self._native is None else self._native

    def _layer(self, layer: LayerPlacement, shards: int) -> "_Layer":
        known = self._layers.get(id(layer))
        if known is None or known.layer is not layer:
            known = self._layers[id(layer)] = _Layer(layer, shards)
        return known


class _Layer:
    """A layer's holders as the native library reads them."""

    def __init__(self, layer: LayerPlacement, shards: int) -> None:
        self.layer = layer
        counts_E = [len(holders) for holders in layer.holders]
        self._holders_N = np.array([shard for holders in layer.holders for shard in holders], np.int32)
        self._expert_of_N = np.repeat(np.arange(layer.experts), counts_E)
        starts_E1 = np.cumsum([0, *counts_E], dtype=np.int32)
        self._native = NativeChoice(starts_E1, self._holders_N, shards)
        self._costs: ShardCosts | None = None

    def choose(self, ids_TK: NDArray[np.int64], ranks: list[int], costs: ShardCosts) -> Choice:
        native = self._native
        if costs is not self._costs:
            native.set_costs(costs.call_us_S, costs.expert_us_S, costs.pair_us_S)
            self._costs = costs
        split = native.choose(ids_TK, ranks)
        return Choice(native.shard_of_E.copy(), self._splits() if split else ())

    def _splits(self) -> tuple[Split, ...]:
        places = np.flatnonzero(self._native.given_N)
        experts = self._expert_of_N[places]
        several = np.bincount(experts)[experts] > 1
        places, experts = places[several], experts[several]
        columns: Sequence[list[int]] = (
            experts.tolist(),
            self._holders_N[places].tolist(),
            self._native.given_N[places].tolist(),
        )
        return tuple(map(Split, *columns))

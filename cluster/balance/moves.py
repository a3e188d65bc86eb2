"""What one placement must copy and drop to become another. L MoE layers, E experts, S shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.placement import LayerPlacement, Placement

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moves:
    """How many experts each shard takes over and drops in each layer, [L, S], and the bytes of one of them."""

    layers: tuple[int, ...]
    added_LS: Counts
    dropped_LS: Counts
    expert_bytes: int

    @property
    def added(self) -> int:
        """Copies of experts that shards must load."""
        return int(self.added_LS.sum())

    @property
    def dropped(self) -> int:
        """Copies of experts that shards give up."""
        return int(self.dropped_LS.sum())

    @property
    def bytes_S(self) -> Counts:
        """What each shard must load, in bytes."""
        loaded_S: Counts = self.added_LS.sum(axis=0) * self.expert_bytes
        return loaded_S

    @property
    def bytes(self) -> int:
        """What all shards must load together."""
        return self.added * self.expert_bytes


def moves(old: Placement, new: Placement, layers: Sequence[int], expert_bytes: int = 0) -> Moves:
    """Return what the shards take over and drop in the MoE layers `layers`; the order of holders moves nothing."""
    shards = max(old.shards, new.shards)
    added_LS, dropped_LS = (np.zeros((len(layers), shards), np.int64) for _ in range(2))
    for place, layer in enumerate(layers):
        before, after = old.layer(layer), new.layer(layer)
        if before is not after:
            held_ES, wanted_ES = holds(before, shards), holds(after, shards)
            added_LS[place] = (wanted_ES & ~held_ES).sum(axis=0)
            dropped_LS[place] = (held_ES & ~wanted_ES).sum(axis=0)
    return Moves(tuple(layers), added_LS, dropped_LS, expert_bytes)


def holds(layer: LayerPlacement, shards: int) -> Bools:
    """Return whether each shard holds each expert, [E, S]."""
    held_ES = np.zeros((layer.experts, shards), np.bool_)
    copies_E = np.fromiter(map(len, layer.holders), np.int64, layer.experts)
    holders = np.fromiter((shard for shards in layer.holders for shard in shards), np.int64, int(copies_E.sum()))
    held_ES[np.repeat(np.arange(layer.experts), copies_E), holders] = True
    return held_ES

"""Which shards hold which expert: data. The algorithms that make placements live in the control plane.

E experts of a layer, S shards, B blocks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shards = tuple[int, ...]


@dataclass(frozen=True)
class LayerPlacement:
    """`holders[e]` lists the shards that hold expert e, the first to be asked first: its home.

    Experts with the same holders form a block. A block is asked for as one, so its sum has the same bits whichever of
    its holders answers; blocks are numbered by their first holder, then by the others.

    Raises:
        ValueError: an expert has no holder, or one of them twice.
    """

    holders: tuple[Shards, ...]

    def __post_init__(self) -> None:
        for expert, shards in enumerate(self.holders):
            if not shards or len(set(shards)) < len(shards) or min(shards) < 0:
                raise ValueError(f"expert {expert} must be held by one or more different shards, not by {shards}")
        if not self.holders:
            raise ValueError("a placement has at least one expert")

    @property
    def experts(self) -> int:
        """Experts in the layer."""
        return len(self.holders)

    @cached_property
    def copies(self) -> int:
        """How many shards hold each expert, at least."""
        return min(map(len, self.holders))

    @cached_property
    def shared(self) -> bool:
        """Whether any expert has more than one holder, so that there is something to choose."""
        return any(len(shards) > 1 for shards in self.holders)

    @cached_property
    def blocks(self) -> tuple[Shards, ...]:
        """The holders of each block."""
        return tuple(sorted(set(self.holders)))

    @cached_property
    def block_of_E(self) -> NDArray[np.int64]:
        """The block of each expert."""
        numbers = {shards: number for number, shards in enumerate(self.blocks)}
        return np.array([numbers[shards] for shards in self.holders])

    @cached_property
    def first_of_B(self) -> NDArray[np.int64]:
        """The first holder of each block."""
        return np.array([shards[0] for shards in self.blocks])

    @cached_property
    def home_of_E(self) -> NDArray[np.int64]:
        """The shard that is asked for each expert while all live."""
        return np.array([shards[0] for shards in self.holders])

    @cached_property
    def expert_of_rank_E(self) -> NDArray[np.int32]:
        """The experts block by block, ascending within each, and behind them one for the key of a lost expert."""
        order = sorted(range(self.experts), key=lambda expert: (self.block_of_E[expert], expert))
        return np.array([*order, 0], dtype=np.int32)

    @cached_property
    def sort_key_of_E(self) -> NDArray[np.unsignedinteger[Any]]:
        """Each expert's rank and, where the index -1 of a lost expert finds it, a key past all blocks.

        In the narrowest type: numpy sorts 16 bits by radix, in linear time.
        """
        keys_E = np.empty(self.experts + 1, dtype=np.min_scalar_type(self.experts))
        keys_E[self.expert_of_rank_E[:-1]] = np.arange(self.experts)
        keys_E[-1] = self.experts
        return keys_E

    @cached_property
    def end_keys_B(self) -> NDArray[np.unsignedinteger[Any]]:
        """The rank behind each block's last expert, in the type of the keys, so that searching converts nothing."""
        sizes_B = np.bincount(self.block_of_E, minlength=len(self.blocks))
        return np.cumsum(sizes_B).astype(self.sort_key_of_E.dtype)

    def held_by(self, shard: int) -> tuple[int, ...]:
        """The experts that a shard holds, ascending."""
        return tuple(expert for expert, shards in enumerate(self.holders) if shard in shards)


@dataclass(frozen=True)
class Placement:
    """What each of `shards` shards holds, as of `epoch`: `everywhere`, but for the layers in `special`.

    A shard may hold nothing: there is room for it, and it need not be there. A map with a higher epoch replaces one
    with a lower.

    Raises:
        ValueError: a layer names a shard past the last, or layers differ in the number of experts.
    """

    shards: int
    everywhere: LayerPlacement
    special: Mapping[int, LayerPlacement] = field(default_factory=dict)
    epoch: int = 0

    def __post_init__(self) -> None:
        for layer in (self.everywhere, *self.special.values()):
            if layer.experts != self.experts:
                raise ValueError(f"all layers have {self.experts} experts, one of the placement has {layer.experts}")
            if (last := max(map(max, layer.holders))) >= self.shards:
                raise ValueError(f"the placement names shard {last}, there are {self.shards}, counted from 0")

    @property
    def experts(self) -> int:
        """Experts in a layer."""
        return self.everywhere.experts

    @property
    def copies(self) -> int:
        """How many shards hold each expert of each layer, at least."""
        return min(layer.copies for layer in (self.everywhere, *self.special.values()))

    @cached_property
    def holding(self) -> frozenset[int]:
        """The shards that hold any expert: those that are needed."""
        layers = (self.everywhere, *self.special.values())
        return frozenset(shard for layer in layers for shards in layer.blocks for shard in shards)

    def layer(self, layer: int) -> LayerPlacement:
        """Who holds the experts of a layer."""
        return self.special.get(layer, self.everywhere)

    def held_by(self, shard: int) -> tuple[int, ...]:
        """The experts that a shard holds in any layer, ascending."""
        layers = (self.everywhere, *self.special.values())
        return tuple(sorted({expert for layer in layers for expert in layer.held_by(shard)}))


def placement_of_layers(shards: int, layers: Mapping[int, LayerPlacement], epoch: int = 0) -> Placement:
    """The placement of `shards` shards of which each MoE layer is named.

    Its `everywhere` is the first of them: it is nobody's, and so names no shard that holds nothing.

    Raises:
        ValueError: no layer is named; see also `Placement`.
    """
    if not layers:
        raise ValueError("a placement has at least one MoE layer")
    return Placement(shards, layers[min(layers)], dict(layers), epoch)


def placement_of(held: Sequence[Iterable[int]], epoch: int = 0) -> Placement:
    """The placement in which shard s holds the experts `held[s]` of every layer, and an expert's lower shard is home.

    Raises:
        ValueError: an expert is held nowhere.
    """
    lists = [set(experts) for experts in held]
    count = 1 + max((expert for experts in lists for expert in experts), default=-1)
    holders = tuple(tuple(shard for shard, one in enumerate(lists) if expert in one) for expert in range(count))
    return Placement(len(lists), LayerPlacement(holders), epoch=epoch)


def even_placement(
    experts: int, shards: int, copies: int = 1, ring: Sequence[int] | None = None, room: int = 0
) -> Placement:
    """Give each shard a run of consecutive experts, sizes differing by at most one, and copies to the next shards.

    Shard ring[i] is home to run i, which the copies - 1 shards behind it in the ring hold too: when one fails, the next
    one takes over its run.

    Args:
        ring: the shards in an order in which neighbours do not fail together; 0, 1, 2 ... if not given.
        room: how many shards there may be later, if more.

    Raises:
        ValueError: more shards than experts, or more copies than shards.
    """
    if not 1 <= shards <= experts:
        raise ValueError(f"shards is {shards}, it must be from 1 to {experts}, the number of experts in a layer")
    if not 1 <= copies <= shards:
        raise ValueError(f"copies is {copies}, it must be from 1 to {shards}, the number of shards")
    ring = range(shards) if ring is None else ring
    holders: list[Shards] = []
    for place, run in enumerate(np.array_split(np.arange(experts), shards)):
        holders += [tuple(ring[(place + step) % shards] for step in range(copies))] * len(run)
    return Placement(max(shards, room), LayerPlacement(tuple(holders)))

"""Which shard holds which expert: data. The algorithms that make placements live in the control plane."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Placement:
    """`shards[s]` lists the experts of shard s, in the order in which it holds them; the same in every layer."""

    shards: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        held = sorted(expert for experts in self.shards for expert in experts)
        if held != list(range(len(held))) or not all(self.shards):
            raise ValueError(f"a placement gives each expert to one shard and each shard an expert, not {self.shards}")

    @property
    def experts(self) -> int:
        """Experts in a layer."""
        return sum(len(experts) for experts in self.shards)

    @cached_property
    def shard_of_E(self) -> NDArray[np.int64]:
        """The shard of each expert."""
        return self._by_expert(lambda shard, _: shard)

    @cached_property
    def rank_of_E(self) -> NDArray[np.int64]:
        """Each expert's place when all are lined up shard by shard: sorting by it groups by shard, then by slot."""
        starts = [0, *self.ends_S.tolist()]
        return self._by_expert(lambda shard, slot: starts[shard] + slot)

    @cached_property
    def sort_key_of_E(self) -> NDArray[np.unsignedinteger[Any]]:
        """`rank_of_E` and behind it, where the index -1 of a lost expert finds it, a key past all shards.

        In the narrowest type: numpy sorts 16 bits by radix, in linear time.
        """
        keys = [*self.rank_of_E.tolist(), self.experts]
        return np.array(keys, dtype=np.min_scalar_type(self.experts))

    @cached_property
    def slot_of_rank_E(self) -> NDArray[np.int32]:
        """The slot of the expert of each rank, and behind it one for the key of a lost expert."""
        slots = [slot for experts in self.shards for slot in range(len(experts))]
        return np.array([*slots, 0], dtype=np.int32)

    @cached_property
    def end_keys_S(self) -> NDArray[np.unsignedinteger[Any]]:
        """`ends_S` in the type of the keys, so that searching among them converts nothing."""
        return self.ends_S.astype(self.sort_key_of_E.dtype)

    @cached_property
    def ends_S(self) -> NDArray[np.int64]:
        """The rank behind each shard's last expert."""
        return np.cumsum([len(experts) for experts in self.shards])

    def _by_expert(self, value: Callable[[int, int], int]) -> NDArray[np.int64]:
        table = np.empty(self.experts, dtype=np.int64)
        for shard, experts in enumerate(self.shards):
            for slot, expert in enumerate(experts):
                table[expert] = value(shard, slot)
        return table


def even_placement(experts: int, shards: int) -> Placement:
    """Give each shard a run of consecutive experts, sizes differing by at most one.

    Raises:
        ValueError: more shards than experts.
    """
    if not 1 <= shards <= experts:
        raise ValueError(f"shards is {shards}, it must be from 1 to {experts}, the number of experts in a layer")
    return Placement(tuple(tuple(int(e) for e in part) for part in np.array_split(np.arange(experts), shards)))

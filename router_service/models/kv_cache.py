"""Keys and values of all sequences, in pages: block b holds the slots b*block_size up to (b+1)*block_size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from router_service.models.cache_groups import CacheGroup, cache_groups
from router_service.models.spec import ModelSpec

# A layer's share of its group's storage: per row of a token one tensor [slots, heads, elements of a head].
LayerStorage = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class GroupStorage:
    """A group's tensors, one per row: [layers of the group, slots, heads, elements of a head]."""

    group: CacheGroup
    tensors: tuple[Tensor, ...]

    @classmethod
    def empty(cls, group: CacheGroup, slots: int, dtype: torch.dtype, device: torch.device) -> "GroupStorage":
        """Reserve room for `slots` tokens."""
        shapes = ((len(group.layers), slots, *row) for row in group.rows)
        return cls(group, tuple(torch.empty(shape, dtype=dtype, device=device) for shape in shapes))

    def of_layer(self, layer: int) -> LayerStorage:
        """The storage of one of the group's layers, by its number in the model."""
        place = self.group.layers.index(layer)
        return tuple(tensor[place] for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class KVCache:
    """The storage of every group, in the model's dtype on its device. Each group has slots of its own."""

    groups: tuple[GroupStorage, ...]

    @classmethod
    def empty(cls, spec: ModelSpec, group_slots: Sequence[int], dtype: torch.dtype, device: torch.device) -> "KVCache":
        """Reserve room for so many tokens in each group of `cache_groups(spec)`.

        On a CPU the pages become resident only as they are written.

        Raises:
            ValueError: another number of sizes than of groups.
        """
        groups = cache_groups(spec)
        if len(group_slots) != len(groups):
            raise ValueError(f"group_slots has {len(group_slots)} sizes for {len(groups)} cache groups: give one each")
        sizes = zip(groups, group_slots, strict=True)
        return cls(tuple(GroupStorage.empty(group, slots, dtype, device) for group, slots in sizes))

    def of_layer(self, layer: int) -> LayerStorage:
        """A layer's share of its group's storage."""
        return self.groups[self.group_of(layer)].of_layer(layer)

    def group_of(self, layer: int) -> int:
        """The place in `groups` of a layer's group."""
        return next(place for place, storage in enumerate(self.groups) if layer in storage.group.layers)

    @property
    def device(self) -> torch.device:
        """The device that holds it."""
        return self.groups[0].tensors[0].device

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(tensor.nbytes for storage in self.groups for tensor in storage.tensors)

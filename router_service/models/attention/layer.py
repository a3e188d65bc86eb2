"""The interface of a layer's attention, and the base class of attention over the paged cache.

T tokens of the step, B segments of one row, N rows of another segment, D hidden, H heads, C query size, V value size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kernels.attention.paged import PagedRows, PagedSegments
from kernels.ops import Ops, SegmentOps
from router_service.models.attention.rope import Rotation
from router_service.models.kv_cache import LayerStorage
from router_service.models.projections import Projections
from router_service.models.spec import ModelSpec
from router_service.models.step_batch import GroupBatch, StepBatch


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What a layer's attention is built from: its number, the model's weights, the backend, and its share of the cache.

    `group` is the number of its cache group, whose part of a step it needs.
    """

    number: int
    spec: ModelSpec
    projections: Projections
    ops: Ops
    group: int
    storage: LayerStorage


class Attention(Protocol):
    """One layer's attention, or what replaces it.

    A recurrent layer would implement this protocol directly, since it reads and writes one state per sequence instead
    of one row per token. Its `cache_groups.CacheGroup` would have storage per sequence, and its
    `step_batch.GroupBatch` would hold the indices of the states instead of slots.
    """

    def first_product(self, h_TD: Tensor) -> Tensor:
        """Return the layer's first projection; also used to measure the speed of the machine."""

    def __call__(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """Return out_TD for normalized rows h_TD, and write the step's keys and values to the cache."""


class PagedAttention(ABC):
    """Attention over the paged cache: project, write to the cache, attend, project the output."""

    def __init__(self, parts: LayerParts) -> None:
        self._parts = parts
        self._w = parts.projections
        self._storage = parts.storage
        self._elements = parts.ops.elements

    def first_product(self, h_TD: Tensor) -> Tensor:
        """Return queries and what will be cached, stacked, before norms and rope."""
        return self._w.apply(self._name("qkv"), h_TD)

    def __call__(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """See `Attention`."""
        here = batch.groups[self._parts.group]
        q_THC, rows = self._project(h_TD, by, batch)
        for stored, new in zip(self._storage, rows, strict=True):
            stored.index_copy_(0, here.slots_T, new)
        return self._w.apply(self._name("out"), self._attend(q_THC, here).flatten(1))

    def _attend(self, q_THC: Tensor, here: GroupBatch) -> Tensor:
        """Return out_THV; the rows of the queries' own tokens are in the cache already."""
        if (ops := self._parts.ops.segments) is not None:
            return self._attend_all(q_THC, here.segments, ops)
        if here.single_rows_B is None:
            return self._attend_single(q_THC, here.single)
        parts = [self._attend_several(q_THC[part.rows], part.slots) for part in here.several]
        out_THV = q_THC.new_empty(*q_THC.shape[:2], parts[0].shape[-1])
        for segment, part in zip(here.several, parts, strict=True):
            out_THV[segment.rows] = part
        if len(here.single):
            out_THV[here.single_rows_B] = self._attend_single(q_THC[here.single_rows_B], here.single)
        return out_THV

    @abstractmethod
    def _project(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return q_THC, and the tokens' rows for each tensor of the storage."""

    @abstractmethod
    def _attend_all(self, q_THC: Tensor, segments: PagedSegments, ops: SegmentOps) -> Tensor:
        """Return out_THV by a backend that takes all segments together."""

    @abstractmethod
    def _attend_single(self, q_BHC: Tensor, rows: PagedRows) -> Tensor:
        """Return out_BHV for the segments of one row."""

    @abstractmethod
    def _attend_several(self, q_NHC: Tensor, slots: slice | Tensor) -> Tensor:
        """Return out_NHV for a segment's rows, the last N of the positions at `slots`."""

    def _name(self, parameter: str) -> str:
        return f"{self._parts.number}.{parameter}"

"""The interface of a layer's attention, and the base class of attention over the paged cache.

T tokens of the step, D hidden, H heads, V value size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from router_service.models.attention.rope import Rotation
from router_service.models.kv_cache import LayerStorage
from router_service.models.projections import Projections
from router_service.models.spec import ModelSpec
from router_service.models.step_batch import StepBatch


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What a layer's attention is built from: its number, the model's weights, and its share of the cache."""

    number: int
    spec: ModelSpec
    projections: Projections
    storage: LayerStorage


class Attention(Protocol):
    """One layer's attention, or what replaces it.

    A recurrent layer would implement this protocol directly, since it reads and writes one state per sequence instead
    of one row per token. Its `cache_groups.CacheGroup` would have storage per sequence, and `step_batch.Segment` would
    hold the index of the state beside the slots of its tokens.
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

    def first_product(self, h_TD: Tensor) -> Tensor:
        """Return queries and what will be cached, stacked, before norms and rope."""
        return self._w.apply(self._name("qkv"), h_TD)

    def __call__(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """See `Attention`."""
        q_THC, rows = self._project(h_TD, by, batch)
        for stored, new in zip(self._storage, rows, strict=True):
            stored[batch.slots_T] = new
        return self._w.apply(self._name("out"), self._attend(q_THC, batch).flatten(1))

    @abstractmethod
    def _project(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return q_THC, and the tokens' rows for each tensor of the storage."""

    @abstractmethod
    def _attend(self, q_THC: Tensor, batch: StepBatch) -> Tensor:
        """Return out_THV; the rows of the queries' own tokens are in the cache already."""

    def _name(self, parameter: str) -> str:
        return f"{self._parts.number}.{parameter}"

"""What every layer's attention does, and the order in which one over the paged cache does it.

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
    """What a layer's attention is made with: its number, the model's weights, and its own share of the cache."""

    number: int
    spec: ModelSpec
    projections: Projections
    storage: LayerStorage


class Attention(Protocol):
    """One layer's attention, or what stands in its place.

    A recurrent layer would fulfil this protocol directly, as its order is another: it reads and writes one state of
    each sequence, not a row of each token. Its `cache_groups.CacheGroup` would have storage by sequence, and
    `step_batch.Segment` would say which state is whose, beside the slots of its tokens.
    """

    def first_product(self, h_TD: Tensor) -> Tensor:
        """The layer's first product, whose time says how fast the machine is."""

    def __call__(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """Return out_TD for normalized rows; what the step's tokens leave for later ones is written to the cache."""


class PagedAttention(ABC):
    """Attention over rows of tokens in the paged cache: project, write, attend, output."""

    def __init__(self, parts: LayerParts) -> None:
        self._parts = parts
        self._w = parts.projections
        self._storage = parts.storage

    def first_product(self, h_TD: Tensor) -> Tensor:
        """Queries and what is cached, stacked, before norms and rope."""
        return self._w.apply(self._name("qkv"), h_TD)

    def __call__(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """See `Attention`."""
        q_THC, rows = self._project(h_TD, by, batch)
        for stored, new in zip(self._storage, rows, strict=True):
            stored[batch.slots_T] = new
        return self._w.apply(self._name("out"), self._attend(q_THC, batch).flatten(1))

    @abstractmethod
    def _project(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return q_THC, and for each tensor of the storage the rows that the tokens have in it."""

    @abstractmethod
    def _attend(self, q_THC: Tensor, batch: StepBatch) -> Tensor:
        """Return out_THV of queries whose own rows are in the cache already."""

    def _name(self, parameter: str) -> str:
        return f"{self._parts.number}.{parameter}"

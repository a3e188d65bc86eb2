"""Descriptions of a layer's attention: its sizes, what a token attends to, and what is cached.

Each kind is a dataclass that implements `AttentionForm`. Its implementation is chosen by type in
`router_service.models.attention.table`, and nowhere else.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Protocol

from router_service.models.view import WHOLE_CONTEXT, CacheKind, View

# (heads, elements per head): what one tensor of the cache holds per token.
Row = tuple[int, int]


class AttentionForm(Protocol):
    """What the cache, the size estimates and `inspect` need to know of any kind of attention.

    So far everything is cached per token. A recurrent layer, with one state per sequence, would have no `cache_rows`
    and a `CacheKind` of its own; see `attention.layer.Attention`.
    """

    @property
    def view(self) -> View:
        """Which tokens a token attends to."""

    @property
    def rope(self) -> bool:
        """Whether rotary embedding is applied to queries and keys."""

    @property
    def cache_kind(self) -> CacheKind:
        """The kind of cache that it needs."""

    @property
    def cache_rows(self) -> tuple[Row, ...]:
        """What a token occupies in the layer's cache: a row in each of its tensors."""

    @property
    def uncompressed(self) -> int | None:
        """Elements of a token's uncompressed keys and values, all heads; None if those are what is cached."""

    @property
    def description(self) -> str:
        """Its description in the output of `inspect`, without the view."""


def cached_elements(form: AttentionForm) -> int:
    """Elements that a token occupies in one layer's cache."""
    return sum(prod(row) for row in form.cache_rows)


class QueryKeyNorm(StrEnum):
    """How queries and keys are normalized."""

    NONE = "none"
    HEAD = "head"  # each head, before rope
    WHOLE = "whole"  # all heads of a token together, before rope
    L2_AFTER_ROPE = "l2_after_rope"  # each head without a weight, after rope and only in layers with rope


NORM_DESCRIPTIONS = {
    QueryKeyNorm.HEAD: "queries and keys normalized by head",
    QueryKeyNorm.WHOLE: "queries and keys normalized over all heads",
    QueryKeyNorm.L2_AFTER_ROPE: "queries and keys normalized after rope",
}


@dataclass(frozen=True, slots=True)
class Temperature:
    """Queries at position p of layers without rope are multiplied by 1 + scale * log(1 + floor((p + 1) / floor))."""

    scale: float
    floor: float


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Grouped-query attention (Ainslie et al. 2023): `heads` queries share `kv_heads` keys and values of `head_dim`.

    `clip` bounds the absolute values of queries, keys and values; `sinks` adds a logit without a value to each head.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    norm: QueryKeyNorm = QueryKeyNorm.NONE
    clip: float | None = None
    sinks: bool = False
    temperature: Temperature | None = None
    rope: bool = True
    view: View = WHOLE_CONTEXT

    @property
    def cache_kind(self) -> CacheKind:
        """As the view requires."""
        return self.view.kind

    @property
    def cache_rows(self) -> tuple[Row, ...]:
        """Keys and values."""
        return ((self.kv_heads, self.head_dim),) * 2

    @property
    def uncompressed(self) -> int | None:
        """None: keys and values are cached as they are."""
        return None

    @property
    def description(self) -> str:
        """Heads, norms and sinks."""
        parts = [f"grouped-query, {self.heads} heads share {self.kv_heads} keys and values of {self.head_dim}"]
        parts += [NORM_DESCRIPTIONS[self.norm]] if self.norm in NORM_DESCRIPTIONS else []
        return ", ".join([*parts, "a sink in each head"] if self.sinks else parts)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values are projected from a cached latent.

    A head's query and key have `nope_dim` elements without and `rope_dim` elements with rotary embedding; the latter
    are shared by all heads' keys. `query_rank` None projects queries directly. `scale` multiplies the logits.
    """

    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    bias: bool = False

    @property
    def view(self) -> View:
        """The whole context."""
        return WHOLE_CONTEXT

    @property
    def rope(self) -> bool:
        """Always, for a part of each head."""
        return True

    @property
    def cached(self) -> int:
        """Elements of a token's latent and rope key."""
        return self.kv_rank + self.rope_dim

    @property
    def query_dim(self) -> int:
        """Elements of a head's query."""
        return self.nope_dim + self.rope_dim

    @property
    def cache_kind(self) -> CacheKind:
        """Latents."""
        return CacheKind.LATENT

    @property
    def cache_rows(self) -> tuple[Row, ...]:
        """The latent and the rope key as one "head", which all heads share."""
        return ((1, self.cached),)

    @property
    def uncompressed(self) -> int | None:
        """Keys and values of all heads, as projected from the latents."""
        return self.heads * (self.query_dim + self.value_dim)

    @property
    def description(self) -> str:
        """Heads, latents and queries."""
        queries = f"queries from {self.query_rank}" if self.query_rank else "queries projected directly"
        cached = f"{self.heads} heads' keys and values from {self.kv_rank} + {self.rope_dim} cached numbers"
        return f"latent, {cached}, {queries}"

"""Chooses the implementation of each kind of attention, by type."""

from collections.abc import Callable, Mapping
from typing import Any

from router_service.models.attention.grouped import GroupedQueryAttention
from router_service.models.attention.latent import MultiHeadLatentAttention
from router_service.models.attention.layer import Attention, LayerParts
from router_service.models.attention_forms import GroupedAttention, LatentAttention

ATTENTIONS: Mapping[type, Callable[[Any, LayerParts], Attention]] = {
    GroupedAttention: GroupedQueryAttention,
    LatentAttention: MultiHeadLatentAttention,
}


def attention_of(parts: LayerParts) -> Attention:
    """Return the implementation of a layer's attention."""
    form = parts.spec.per_layer[parts.number].attention
    return ATTENTIONS[type(form)](form, parts)

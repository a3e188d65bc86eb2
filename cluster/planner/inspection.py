"""Everything that `expertmesh inspect` prints about a model, as plain data. Sizes in bytes."""

from dataclasses import dataclass, replace

import torch

from cluster.planner.inspected_model import InspectedModel, Skipped
from cluster.planner.memory_plan import DoesNotFitError, Forms, Room, choose
from cluster.planner.model_description import describe_attention, describe_routing
from cluster.planner.quantize import ROUNDED, with_experts_in
from cluster.planner.sizes import (
    Parameters,
    experts_bytes,
    kept_tokens,
    kv_bytes_per_sequence,
    kv_bytes_per_token,
    packable,
    parameters,
    stored_tensors,
    uncompressed_kv_bytes_per_token,
    weights_bytes,
)
from cluster.planner.wire_traffic import LayerTraffic, expected_shards_asked, layer_traffic, most_shards_asked
from experts.placement import Placement, even_placement
from router_service.models.cache_groups import CacheGroup, cache_groups

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class FormSizes:
    """The weights in one form: all of them once, and those of one expert of a layer, an MoE layer, the largest shard.

    Of these only the shard's count what it holds as a copy.
    """

    weights: int
    expert: int
    moe_layer: int
    shard: int


@dataclass(frozen=True, slots=True)
class CacheGroupSizes:
    """`layers` (numbers, from 0) that cache alike: `per_token` in all of them, `per_sequence` at the whole context.

    `kind` is full, window, chunk or latent; `last_tokens` is how many they keep, None for all.
    """

    kind: str
    layers: tuple[int, ...]
    last_tokens: int | None
    per_token: int
    per_sequence: int


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """The KV cache.

    Args:
        per_token: of a token that all layers keep; older ones take less where there are windows or chunks.
        per_sequence: of a sequence that fills the context.
        tokens_per_gib: tokens of such sequences that a GiB holds, the last of them in part.
        uncompressed_per_token: what each head's keys and values would take beside a latent.
    """

    dtype: str
    per_token: int
    per_sequence: int
    tokens_per_gib: int
    uncompressed_per_token: int | None
    groups: tuple[CacheGroupSizes, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything. `auto` is the form that `weights.resident: auto` takes here, None where the model does not fit.

    `quantized` is what `weights.quantize` would make of experts in floats, by its value; `smaller` are the flags with
    which the model fits here. `stored` by kind, then dtype; `expected` and `most` are a token's traffic in one MoE
    layer while all shards live. `dense_bytes` is what a dense model of `parameters.active` parameters loads in `dtype`.
    """

    name: str
    published: bool
    family: str
    layers: int
    moe_layers: int
    hidden: int
    vocabulary: int
    context: int
    dtype: str
    routing: str
    attention: str
    parameters: Parameters
    active_without_embedding: int
    stored: dict[str, dict[str, int]]
    stored_tensors: int
    skipped: tuple[Skipped, ...]
    packed: FormSizes | None
    dequantized: FormSizes
    quantized: dict[str, FormSizes]
    auto: str | None
    smaller: tuple[str, ...]
    room_bytes: int
    cache: CacheSizes
    shards: int
    copies: int
    expected: LayerTraffic
    most: LayerTraffic
    dense_bytes: int
    notices: tuple[str, ...]

    @property
    def stored_bytes(self) -> int:
        """All that a checkpoint holds of what is loaded."""
        return sum(sum(by_dtype.values()) for by_dtype in self.stored.values())


def inspect(
    model: InspectedModel, dtype: torch.dtype, shards: int, forms: Forms, room: Room, copies: int = 1
) -> Inspection:
    """Inspect a model that is to be served in `dtype` on `shards` shards, with `copies` of each expert.

    Raises:
        ValueError: more shards than experts, or more copies than shards.
    """
    spec, tensors = model.spec, model.tensors
    held = _held(even_placement(spec.gate.experts, shards))
    most_held = max(_held(even_placement(spec.gate.experts, shards, copies)))
    asked = float(expected_shards_asked(spec.gate.top_k, held)), most_shards_asked(spec.gate.top_k, held)
    expected, most = (layer_traffic(spec.hidden, dtype.itemsize, spec.gate.top_k, number) for number in asked)
    counted = parameters(spec, tensors)
    return Inspection(
        name=model.name,
        published=model.published,
        family=spec.family,
        layers=spec.layers,
        moe_layers=len(spec.moe_layers),
        hidden=spec.hidden,
        vocabulary=spec.vocabulary,
        context=spec.context,
        dtype=_name(dtype),
        routing=describe_routing(spec.gate, spec.form),
        attention=describe_attention(spec),
        parameters=counted,
        active_without_embedding=counted.active_without_embedding,
        stored={kind.value: dict(by_dtype) for kind, by_dtype in model.stored.items() if by_dtype},
        stored_tensors=sum(1 for _ in stored_tensors(tensors)),
        skipped=model.skipped,
        packed=_form(model, dtype, packed=True, experts=most_held) if packable(tensors) else None,
        dequantized=_form(model, dtype, packed=False, experts=most_held),
        quantized=_quantized(model, dtype, most_held),
        auto=_auto(forms, room, shards),
        smaller=tuple(flag for flag, demand in forms.others.items() if room.holds(demand, shards)),
        room_bytes=room.bytes,
        cache=_cache(model, dtype),
        shards=shards,
        copies=copies,
        expected=expected,
        most=most,
        dense_bytes=counted.active * dtype.itemsize,
        notices=model.notices,
    )


def _held(placement: Placement) -> tuple[int, ...]:
    """How many experts of a layer each shard holds."""
    return tuple(len(placement.held_by(shard)) for shard in range(placement.shards))


def _form(model: InspectedModel, dtype: torch.dtype, packed: bool, experts: int) -> FormSizes:
    """With `experts` experts of each layer on the largest shard."""
    tensors = model.tensors
    one = tensors.experts.bytes_per_expert(dtype, packed)
    return FormSizes(
        weights=weights_bytes(tensors, dtype, packed),
        expert=one,
        moe_layer=one * tensors.experts.experts,
        shard=experts_bytes(tensors, experts, dtype, packed),
    )


def _quantized(model: InspectedModel, dtype: torch.dtype, experts: int) -> dict[str, FormSizes]:
    changed = {form: with_experts_in(model.tensors, form) for form in ROUNDED}
    return {
        form: _form(replace(model, tensors=tensors), dtype, packed=False, experts=experts)
        for form, tensors in changed.items()
        if tensors is not None
    }


def _cache(model: InspectedModel, dtype: torch.dtype) -> CacheSizes:
    spec = model.spec
    whole = kv_bytes_per_sequence(spec, dtype, spec.context)
    return CacheSizes(
        dtype=_name(dtype),
        per_token=kv_bytes_per_token(spec, dtype),
        per_sequence=whole,
        tokens_per_gib=GIB * spec.context // whole,
        uncompressed_per_token=uncompressed_kv_bytes_per_token(spec, dtype),
        groups=tuple(_group(group, dtype, spec.context) for group in cache_groups(spec)),
    )


def _group(group: CacheGroup, dtype: torch.dtype, context: int) -> CacheGroupSizes:
    each, kept = group.elements_per_token * dtype.itemsize, kept_tokens(group, context)
    return CacheGroupSizes(
        kind=group.kind.value,
        layers=group.layers,
        last_tokens=kept if kept < context else None,
        per_token=each,
        per_sequence=kept * each,
    )


def _auto(forms: Forms, room: Room, shards: int) -> str | None:
    try:
        return choose("auto", forms, room, shards)
    except DoesNotFitError:
        return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

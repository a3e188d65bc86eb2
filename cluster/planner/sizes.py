"""How large a model is: parameters, bytes as stored and in memory, its KV cache. Pure functions, no bytes are read."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch

from experts.checkpoint.safetensors_file import DTYPES
from experts.checkpoint.stored import Stored
from router_service.config import EngineConfig
from router_service.engine.cache_size import cache_elements, most_tokens, resolved_limits
from router_service.models.attention_forms import cached_elements
from router_service.models.cache_groups import CacheGroup, cache_groups
from router_service.models.spec import ModelSpec, TensorMap
from router_service.models.weights import is_projection, resident_bytes

# What safetensors calls the dtypes that config.json names.
STORED_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
# Published in float32 whatever the model's dtype: FP8's scales, and DeepSeek's correction of the gate.
FLOAT32_NAMES = ("weight_scale_inv", "e_score_correction_bias")


class Kind(StrEnum):
    """What a tensor is for."""

    EXPERTS = "experts"
    SHARED = "shared experts"
    DENSE = "dense feed-forward"
    ATTENTION = "attention"
    OUTER = "embedding and head"
    SMALL = "norms and gates"


# By kind, bytes of each stored dtype.
Holdings = dict[Kind, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many parameters a model has.

    `active` counts all that a token's pass touches: the whole router, embedding and head included, and top-k experts a
    layer. `embedding` is the table's share of it, of which a token reads one row; 0 where the head is the same table.
    """

    total: int
    active: int
    embedding: int

    @property
    def active_without_embedding(self) -> int:
        """The other way publishers count."""
        return self.active - self.embedding


def parameters(spec: ModelSpec, tensors: TensorMap) -> Parameters:
    """Count parameters, without what is not loaded (vision, multi-token prediction)."""
    router, expert = tensors.router_elements, tensors.experts.elements_per_expert
    sparse, gate = len(spec.moe_layers), spec.gate
    embedding = 0 if spec.tied_embeddings else tensors.router["embed"].elements
    return Parameters(router + sparse * gate.experts * expert, router + sparse * gate.top_k * expert, embedding)


def kind_of(name: str) -> Kind:
    """The kind of a router's parameter, by the last part of our name for it."""
    last = name.rpartition(".")[2]
    if last in ("embed", "head"):
        return Kind.OUTER
    if last.startswith("gate") or last.endswith("norm") or last == "shared_gate":
        return Kind.SMALL
    if last.startswith("shared_"):
        return Kind.SHARED
    return Kind.DENSE if last.startswith("dense_") else Kind.ATTENTION


def stored_tensors(tensors: TensorMap) -> Iterator[tuple[Kind, Stored]]:
    """Every tensor that a checkpoint holds for the model, once, with its kind."""
    for name, source in tensors.router.items():
        for stored in source.stored():
            yield kind_of(name), stored
    seen = set[str]()  # one tensor may hold all experts of a layer, and would be counted for each
    for stored in tensors.experts.stored():
        if stored.name not in seen:
            seen.add(stored.name)
            yield Kind.EXPERTS, stored


def stored_bytes(tensors: TensorMap, dtype_of: Callable[[Stored], str]) -> Holdings:
    """Bytes as stored, where `dtype_of` says in what dtype a tensor is."""
    held = {kind: Counter[str]() for kind in Kind}
    for kind, stored in stored_tensors(tensors):
        dtype = dtype_of(stored)
        held[kind][dtype] += math.prod(stored.shape) * DTYPES[dtype].itemsize
    return {kind: dict(by_dtype) for kind, by_dtype in held.items()}


def published_dtype(spec: ModelSpec, stored: Stored) -> str:
    """In what dtype a tensor is published, of which only the configuration is known."""
    if len(stored.dtypes) == 1 or STORED_NAMES[spec.dtype] not in stored.dtypes:
        return stored.dtypes[0]
    return "F32" if stored.name.endswith(FLOAT32_NAMES) else STORED_NAMES[spec.dtype]


def packable(tensors: TensorMap) -> bool:
    """Whether any matrix is stored in blocks with scales and could be kept so."""
    return tensors.experts.encoded or any(s.encoded for name, s in tensors.router.items() if is_projection(name))


def router_bytes(tensors: TensorMap, dtype: torch.dtype, packed: bool) -> int:
    """Bytes in memory of the router's weights."""
    return resident_bytes(tensors.router, dtype, packed)


def experts_bytes(tensors: TensorMap, experts: int, dtype: torch.dtype, packed: bool) -> int:
    """Bytes in memory of `experts` experts of each layer."""
    manifest = tensors.experts
    return len(manifest.layers) * experts * manifest.bytes_per_expert(dtype, packed)


def weights_bytes(tensors: TensorMap, dtype: torch.dtype, packed: bool) -> int:
    """Bytes in memory of all weights, each there once."""
    everything = experts_bytes(tensors, tensors.experts.experts, dtype, packed)
    return router_bytes(tensors, dtype, packed) + everything


def kv_cache_bytes(spec: ModelSpec, router: EngineConfig, dtype: torch.dtype, tokens: int) -> int:
    """Bytes of a router's KV cache for `tokens` tokens; layers with a window or chunks keep less of long sequences."""
    return cache_elements(spec, router.block_size, resolved_limits(spec, router), tokens) * dtype.itemsize


def kv_cache_tokens(spec: ModelSpec, router: EngineConfig, dtype: torch.dtype, size: int) -> int:
    """The most tokens of a router's KV cache of `size` bytes, as far as all its requests can fill it."""
    return most_tokens(spec, router.block_size, resolved_limits(spec, router), size // dtype.itemsize)


def kv_bytes_per_token(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes that a token takes in the cache over all layers."""
    return spec.kv_elements_per_token * dtype.itemsize


def kv_bytes_per_sequence(spec: ModelSpec, dtype: torch.dtype, tokens: int) -> int:
    """Bytes that a sequence of `tokens` tokens takes: layers with a window or chunks keep no more than they read.

    The rest of each group's last blocks is not counted.
    """
    return sum(kept_tokens(group, tokens) * group.elements_per_token for group in cache_groups(spec)) * dtype.itemsize


def kept_tokens(group: CacheGroup, tokens: int) -> int:
    """How many tokens of a sequence of `tokens` tokens the layers of a group keep."""
    return tokens if group.remembers is None else min(tokens, group.remembers)


def uncompressed_kv_bytes_per_token(spec: ModelSpec, dtype: torch.dtype) -> int | None:
    """What each head's keys and values would take instead of the cached latent; None without latent attention."""
    forms = [layer.attention for layer in spec.per_layer]
    if all(form.uncompressed is None for form in forms):
        return None
    return sum(form.uncompressed or cached_elements(form) for form in forms) * dtype.itemsize

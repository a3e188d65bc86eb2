"""Attention is chosen by layer: how layers are grouped in the cache, and a model of layers of different kinds."""

from dataclasses import replace
from math import prod

import pytest
import torch
from torch import Tensor

from cluster.planner.inspected_model import open_inspected_model
from cluster.planner.model_description import describe_attention
from cluster.planner.sizes import kv_bytes_per_token, uncompressed_kv_bytes_per_token
from kernels import select
from router_service.engine.scheduling.scheduler import ScheduledSequence
from router_service.engine.step.batch_builder import build_batch
from router_service.models.attention_forms import AttentionForm, GroupedAttention, LatentAttention
from router_service.models.backbone import Backbone
from router_service.models.cache_groups import CacheGroup, cache_groups
from router_service.models.kv_cache import KVCache
from router_service.models.spec import Gate, Layer, ModelSpec, Rope
from router_service.models.step_batch import StepBatch
from router_service.models.view import CacheKind, View

CPU = torch.device("cpu")
HIDDEN, VOCABULARY, SLOTS, BLOCK = 16, 11, 24, 4
FULL = GroupedAttention(heads=4, kv_heads=2, head_dim=8)
SLIDING = replace(FULL, view=View(window=3))
CHUNKED = replace(FULL, view=View(chunk=5), rope=False)
LATENT = LatentAttention(heads=3, query_rank=None, kv_rank=6, nope_dim=4, rope_dim=8, value_dim=5, scale=0.3)
MIXED = (FULL, LATENT, SLIDING, FULL, CHUNKED, LATENT)


def spec_of(*forms: AttentionForm) -> ModelSpec:
    return ModelSpec(
        family="none",
        vocabulary=VOCABULARY,
        hidden=HIDDEN,
        context=64,
        norm_eps=1e-6,
        per_layer=tuple(Layer(True, form) for form in forms),
        rope=Rope(8, 1e4),
        gate=Gate(2, 1),
        expert_ffn=8,
        dense_ffn=0,
        tied_embeddings=True,
        dtype="float32",
    )


def test_groups_of_what_is_published() -> None:
    gpt_oss = cache_groups(open_inspected_model("gpt-oss-20b").spec)
    assert gpt_oss == (
        CacheGroup(CacheKind.WINDOW, ((8, 64), (8, 64)), 128, tuple(range(0, 24, 2))),
        CacheGroup(CacheKind.FULL, ((8, 64), (8, 64)), None, tuple(range(1, 24, 2))),
    )
    llama4 = cache_groups(open_inspected_model("llama-4-scout").spec)
    assert [(group.kind, group.remembers, len(group.layers)) for group in llama4] == [
        (CacheKind.CHUNK, 8192, 36),
        (CacheKind.FULL, None, 12),
    ]
    deepseek = cache_groups(open_inspected_model("deepseek-v3").spec)
    assert deepseek == (CacheGroup(CacheKind.LATENT, ((1, 576),), None, tuple(range(61))),)
    assert [group.kind for group in cache_groups(open_inspected_model("mixtral-8x7b").spec)] == [CacheKind.FULL]


def test_layers_of_like_needs_share_a_group() -> None:
    spec, keys = spec_of(*MIXED, replace(FULL, kv_heads=1), replace(FULL, sinks=True)), ((2, 8), (2, 8))
    groups = cache_groups(spec)
    assert groups == (
        CacheGroup(CacheKind.FULL, keys, None, (0, 3, 7)),  # sinks change nothing of what is cached
        CacheGroup(CacheKind.LATENT, ((1, 14),), None, (1, 5)),
        CacheGroup(CacheKind.WINDOW, keys, 3, (2,)),
        CacheGroup(CacheKind.CHUNK, keys, 5, (4,)),
        CacheGroup(CacheKind.FULL, ((1, 8), (1, 8)), None, (6,)),
    )
    assert sum(group.elements_per_token for group in groups) == spec.kv_elements_per_token == 5 * 32 + 2 * 14 + 16


def test_each_layer_has_storage_of_its_own() -> None:
    """What one layer writes, no other sees; the bytes are those of one cache for all."""
    spec = spec_of(*MIXED)
    cache = KVCache.empty(spec, [SLOTS] * len(cache_groups(spec)), torch.float32, CPU)
    assert cache.nbytes == SLOTS * kv_bytes_per_token(spec, torch.float32)
    for number in range(spec.layers):
        for tensor in cache.of_layer(number):
            tensor.fill_(number)
    for number, form in enumerate(MIXED):
        storage = cache.of_layer(number)
        assert [tensor.shape for tensor in storage] == [(SLOTS, *row) for row in form.cache_rows]
        assert all((tensor == number).all() for tensor in storage)


def test_groups_have_sizes_of_their_own() -> None:
    spec = spec_of(*MIXED)
    sizes = [8, 16, 24, 32]
    cache = KVCache.empty(spec, sizes, torch.float32, CPU)
    assert [len(cache.of_layer(layer)[0]) for layer in (0, 1, 2, 4)] == sizes
    assert [cache.group_of(layer) for layer in range(spec.layers)] == [0, 1, 2, 0, 3, 1]
    with pytest.raises(ValueError, match="group_slots has 1 sizes for 4 cache groups"):
        KVCache.empty(spec, [8], torch.float32, CPU)


@pytest.mark.parametrize("form", MIXED, ids=lambda form: form.cache_kind)
def test_a_group_sees_as_far_back_as_its_layers(form: AttentionForm) -> None:
    (group,) = cache_groups(spec_of(form))
    for position in range(30):
        seen = [p for p in range(position + 1) if visible(p, position, form.view)]
        assert group.first_seen(position) == form.view.first_seen(position) == seen[0]


def visible(key: int, position: int, view: View) -> bool:
    if view.window is not None and key <= position - view.window:
        return False
    return view.chunk is None or key // view.chunk == position // view.chunk


def test_words_and_sizes_of_a_model_of_several_kinds() -> None:
    description = describe_attention(spec_of(*MIXED))
    assert "grouped-query, 4 heads share 2 keys and values of 8 in 4 of 6 layers, latent, 3 heads" in description
    assert "in 2 of 6 layers, a window of 3 tokens in 1 of 6 layers, chunks of 5 tokens in 1 of 6 layers" in description
    assert uncompressed_kv_bytes_per_token(spec_of(*MIXED), torch.bfloat16) == 2 * (4 * 32 + 2 * 3 * (12 + 5))
    assert uncompressed_kv_bytes_per_token(spec_of(FULL, SLIDING), torch.bfloat16) is None


def weights_of(spec: ModelSpec) -> dict[str, Tensor]:
    """Drawn by layer, so that a layer has the same ones in any model."""
    weights = {"embed": draw(0, VOCABULARY, HIDDEN), "norm": torch.ones(HIDDEN)}
    for number, layer in enumerate(spec.per_layer):
        shapes = GROUPED_SHAPES if layer.attention.cache_kind is not CacheKind.LATENT else LATENT_SHAPES
        names = {"input_norm": (HIDDEN,), **shapes}
        weights |= {f"{number}.{name}": draw(number, *shape) for name, shape in names.items()}
    return weights


GROUPED_SHAPES = {"qkv": ((4 + 2 * 2) * 8, HIDDEN), "out": (HIDDEN, 4 * 8)}
LATENT_SHAPES = {
    "qkv": (3 * 12 + 14, HIDDEN), "kv_a_norm": (6,), "kv_b": (3 * (4 + 5), 6), "out": (HIDDEN, 3 * 5)
}  # fmt: skip


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + prod(shape))) * 0.5


def backbone_of(*forms: AttentionForm) -> Backbone:
    spec = spec_of(*forms)
    cache = KVCache.empty(spec, [SLOTS] * len(cache_groups(spec)), torch.float32, CPU)
    return Backbone(spec, weights_of(spec), cache, select.ops("reference", CPU))


def step_of(backbone: Backbone, rows: int, start: int = 0) -> StepBatch:
    """The step of one sequence's `rows` tokens from `start` on, in the blocks from 1 on."""
    tokens = [place % VOCABULARY for place in range(start, start + rows)]
    groups = [storage.group for storage in backbone.cache.groups]
    tables = ([1, 2, 3],) * len(groups)
    return build_batch([ScheduledSequence(0, tokens, start, tables)], BLOCK, groups, CPU)


@torch.inference_mode()
def outputs(backbone: Backbone, layer: int) -> list[Tensor]:
    """What a layer's attention makes of a prompt, then of a token behind it."""
    made = []
    for batch in (step_of(backbone, 7), step_of(backbone, 1, start=7)):
        x_TD, by = backbone.embed(batch)
        made.append(backbone.attention(layer, x_TD, by, batch))
    return made


@pytest.mark.parametrize("layer", range(len(MIXED)))
def test_a_layer_computes_the_same_among_layers_of_other_kinds(layer: int) -> None:
    """As in a model all of whose layers are of its kind."""
    mixed, alike = backbone_of(*MIXED), backbone_of(*[MIXED[layer]] * len(MIXED))
    for other in range(len(MIXED)):
        if other != layer:
            outputs(mixed, other)
    for ours, theirs in zip(outputs(mixed, layer), outputs(alike, layer), strict=True):
        assert ours.isfinite().all()
        assert torch.equal(ours, theirs)

"""Llama 4 (Meta 2025): one expert per token, weighted by a sigmoid at its input, and one that all tokens share.

Some layers may be dense. Three of four layers have rope and attend within chunks; the fourth has neither, and scales
its queries by position. A multimodal checkpoint holds the text model under `language_model.`.
"""

from dataclasses import replace
from typing import Any

from experts.checkpoint.json_checks import MAX_INT32
from experts.checkpoint.manifest import ExpertManifest
from experts.checkpoint.source import Layout
from kernels.weights import ExpertForm
from router_service.models.attention_forms import GroupedAttention, QueryKeyNorm, Temperature
from router_service.models.families.common import (
    LayerTensors,
    Params,
    Tree,
    gate_params,
    read_gate_sizes,
    read_heads,
    read_shared,
    router_params,
    shared_params,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.manifests import fused_experts, manifest, manifest_of
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, Layer, ModelSpec, Rule, Shared, TensorMap
from router_service.models.view import View

ARCHITECTURES = ("Llama4ForConditionalGeneration", "Llama4ForCausalLM")
MODEL_TYPES = ("llama4", "llama4_text")
# The text model of a multimodal checkpoint, as published and as it may be nested.
ROOTS = ("", "language_model.", "model.language_model.")
VISION = ("vision_model.", "multi_modal_projector.", "model.vision_model.", "model.multi_modal_projector.")


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads = read_heads(config)
    layers = _layers(config, _attention(config, heads))
    ffn = config.positive("intermediate_size")
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=layers,
        rope=config.rope(heads.head_dim, 5e5, interleaved=True, float32=True),
        gate=Gate(**read_gate_sizes(config, "num_local_experts", default=1), rule=Rule.TOPK_SIGMOID),
        expert_ffn=ffn,
        dense_ffn=0 if all(layer.sparse for layer in layers) else config.positive("intermediate_size_mlp"),
        form=ExpertForm(weight_inputs=True),
        shared=Shared(ffn),
        **read_shared(config, norm_eps=1e-5),
    )


def _attention(config: ConfigReader, heads: GroupedAttention) -> GroupedAttention:
    biased = config.flag("attention_bias", False)
    scale = config.number("attn_scale", 0.1, least=0, most=1e6)
    temperature = Temperature(scale, config.number("floor_scale", 8192.0, least=1, most=MAX_INT32))
    return replace(
        heads,
        qkv_bias=biased,
        out_bias=biased,
        norm=QueryKeyNorm.L2_AFTER_ROPE if config.flag("use_qk_norm", True) else QueryKeyNorm.NONE,
        temperature=temperature if _is_tuned(config) else None,
    )


def _is_tuned(config: ConfigReader) -> bool:
    """Published configurations have the number 4 here, which the publisher's code only uses as a flag."""
    key = "attn_temperature_tuning"
    written = config.get(key, default=True)
    return written if isinstance(written, bool) else config.integer(key, default=1) > 0


def _layers(config: ConfigReader, form: GroupedAttention) -> tuple[Layer, ...]:
    """`no_rope_layers` says 1 where a layer HAS rope; those are the ones that attend within chunks."""
    count, chunk = config.layers(), config.window("attention_chunk_size")
    every = config.positive("no_rope_layer_interval", default=4)
    rope = config.per_layer("no_rope_layers", count, (0, 1)) or [(n + 1) % every != 0 for n in range(count)]
    kinds = config.per_layer("layer_types", count, ("full_attention", "chunked_attention")) or [
        "chunked_attention" if turned else "full_attention" for turned in rope
    ]
    step = config.positive("interleave_moe_layer_step", default=1)
    listed = config.integers("moe_layers")
    sparse = set(range(step - 1, count, step) if listed is None else listed)
    views = [View(chunk=chunk if kind == "chunked_attention" else None) for kind in kinds]
    return tuple(Layer(n in sparse, replace(form, rope=bool(rope[n]), view=views[n])) for n in range(count))


def tensor_map(spec: ModelSpec, names: TensorNames) -> TensorMap:
    """The publisher's names: `feed_forward.router`, `feed_forward.experts.gate_up_proj` (all experts, transposed).

    Quantized checkpoints may have `feed_forward.experts.N.gate_proj` instead.
    """
    tree = Tree(next((root for root in ROOTS if names.has(f"{root}model.norm.weight")), ROOTS[1]), "feed_forward")
    return TensorMap(router_params(spec, names, tree, _sparse), _experts(spec, names, tree))


def _experts(spec: ModelSpec, names: TensorNames, tree: Tree) -> ExpertManifest:
    """llm-compressor takes the experts apart before it quantizes them."""
    one = f"{tree.feed_forward(spec.moe_layers[0])}.experts.0.gate_proj.weight"
    if names.has(one) or names.encoding(one) is not None:
        return manifest(spec, names, tree.feed_forward)
    fused = fused_experts(spec, tree.feed_forward, Layout.TRANSPOSED, Layout.TRANSPOSED)
    return manifest_of(spec, fused)


def _sparse(at: LayerTensors) -> Params:
    return shared_params(at, "shared_expert") | gate_params(at, "router")


def skipped(_: ModelSpec, name: str) -> str | None:
    """The vision part of a multimodal checkpoint is skipped."""
    return "vision" if name.startswith(VISION) else None


def skipped_elements(config: dict[str, Any]) -> int:
    """Parameters of the vision part by the configuration, 0 without one; the published total includes them."""
    vision = config.get("vision_config")
    if not vision:
        return 0
    d, ffn, adapter = vision["hidden_size"], vision["intermediate_size"], vision["projector_input_dim"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    embedding = 3 * vision["patch_size"] ** 2 * d + d + (patches + 1) * d + 4 * d
    layer = 4 * (d * d + d) + d * ffn + ffn + ffn * d + d + 4 * d
    projector = ffn * adapter + adapter * vision["projector_output_dim"]
    to_text = vision["vision_output_dim"] * config["text_config"]["hidden_size"]
    return int(embedding + vision["num_hidden_layers"] * layer + projector + to_text)

"""Qwen2-MoE (arXiv 2407.10671) and Qwen3-MoE (arXiv 2505.09388): some layers may be dense.

Qwen2-MoE has biases on queries, keys and values and a gated expert that all tokens share; Qwen3-MoE normalizes queries
and keys instead.
"""

from dataclasses import replace

from experts.checkpoint.source import plain
from router_service.models.families.common import (
    feed_forward_params,
    grouped_attention_params,
    manifest,
    norm_params,
    outer_params,
    read_choice,
    read_heads,
    read_shared,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, GroupedAttention, Layer, ModelSpec, QueryKeyNorm, Shared, TensorMap

ARCHITECTURES = ("Qwen3MoeForCausalLM", "Qwen2MoeForCausalLM")
MODEL_TYPES = ("qwen3_moe", "qwen2_moe")


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads, layers = read_heads(config), _layers(config)
    dense = not all(layer.sparse for layer in layers)
    spec = ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=layers,
        attention=heads,
        rope=config.rope(heads.head_dim, 1e4),
        gate=Gate(
            **read_choice(config, "num_experts", "num_local_experts"),
            normalize=config.flag("norm_topk_prob", False),
        ),
        expert_ffn=config.positive("moe_intermediate_size"),
        dense_ffn=config.positive("intermediate_size") if dense else 0,
        **read_shared(config, norm_eps=1e-6),
    )
    return _qwen2(config, spec, heads) if _is_qwen2(config) else _qwen3(config, spec, heads)


def _is_qwen2(config: ConfigReader) -> bool:
    return "Qwen2MoeForCausalLM" in config.strings("architectures") or config.get("model_type") == "qwen2_moe"


def _qwen2(config: ConfigReader, spec: ModelSpec, heads: GroupedAttention) -> ModelSpec:
    return replace(
        spec,
        family="qwen2_moe",
        attention=replace(heads, qkv_bias=config.flag("qkv_bias", True)),
        shared=Shared(config.positive("shared_expert_intermediate_size"), gated=True),
    )


def _qwen3(config: ConfigReader, spec: ModelSpec, heads: GroupedAttention) -> ModelSpec:
    biased = config.flag("attention_bias", False)
    return replace(spec, attention=replace(heads, qkv_bias=biased, out_bias=biased, norm=QueryKeyNorm.HEAD))


def _layers(config: ConfigReader) -> tuple[Layer, ...]:
    count, step = config.layers(), config.positive("decoder_sparse_step", default=1)
    dense, windows = set(config.integers("mlp_only_layers") or []), _windows(config, count)
    return tuple(Layer(n not in dense and (n + 1) % step == 0, window=windows[n]) for n in range(count))


def _windows(config: ConfigReader, count: int) -> list[int | None]:
    """Qwen3 slides in every layer; Qwen2 in those that `layer_types` names, else in even ones below a limit."""
    window = config.window("sliding_window") if config.flag("use_sliding_window", False) else None
    if not _is_qwen2(config):
        return [window] * count
    until = config.integer("max_window_layers", default=28)
    kinds = config.per_layer("layer_types", count, ("full_attention", "sliding_attention")) or [
        "sliding_attention" if n % 2 == 0 and n < until else "full_attention" for n in range(count)
    ]
    return [window if kind == "sliding_attention" else None for kind in kinds]


def tensor_map(spec: ModelSpec, there: TensorNames) -> TensorMap:
    """The makers' names: `mlp.experts.N.gate_proj` and so on."""
    assert isinstance(spec.attention, GroupedAttention)
    params = outer_params(spec)
    for layer, what in enumerate(spec.per_layer):
        prefix = f"model.layers.{layer}"
        params |= norm_params(spec, layer, prefix)
        params |= grouped_attention_params(spec, spec.attention, there, layer, prefix)
        if not what.sparse:
            params |= feed_forward_params(there, f"{layer}.dense", f"{prefix}.mlp", spec.hidden, spec.dense_ffn)
            continue
        params[f"{layer}.gate"] = plain(f"{prefix}.mlp.gate.weight", spec.gate.experts, spec.hidden)
        if spec.shared is not None:
            shared = f"{prefix}.mlp.shared_expert"
            params |= feed_forward_params(there, f"{layer}.shared", shared, spec.hidden, spec.shared.ffn)
            params[f"{layer}.shared_gate"] = plain(f"{shared}_gate.weight", 1, spec.hidden)
    return TensorMap(params, manifest(spec, there, lambda layer: f"model.layers.{layer}.mlp"))

"""Qwen2-MoE (arXiv 2407.10671) and Qwen3-MoE (arXiv 2505.09388): some layers may be dense.

Qwen2-MoE has biases on queries, keys and values, and a gated shared expert; Qwen3-MoE normalizes queries and keys
instead.
"""

from dataclasses import replace

from experts.checkpoint.source import plain
from router_service.models.attention_forms import GroupedAttention, QueryKeyNorm
from router_service.models.families.common import (
    PLAIN_TREE,
    LayerTensors,
    Params,
    gate_params,
    read_gate_sizes,
    read_heads,
    read_shared,
    router_params,
    shared_params,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.manifests import manifest
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, Layer, ModelSpec, Shared, TensorMap
from router_service.models.view import View

ARCHITECTURES = ("Qwen3MoeForCausalLM", "Qwen2MoeForCausalLM")
MODEL_TYPES = ("qwen3_moe", "qwen2_moe")


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    qwen2, heads = _is_qwen2(config), read_heads(config)
    layers = _layers(config, _qwen2(config, heads) if qwen2 else _qwen3(config, heads))
    dense = not all(layer.sparse for layer in layers)
    return ModelSpec(
        family="qwen2_moe" if qwen2 else "qwen3_moe",
        per_layer=layers,
        rope=config.rope(heads.head_dim, 1e4),
        gate=Gate(
            **read_gate_sizes(config, "num_experts", "num_local_experts"),
            normalize=config.flag("norm_topk_prob", False),
        ),
        expert_ffn=config.positive("moe_intermediate_size"),
        dense_ffn=config.positive("intermediate_size") if dense else 0,
        shared=Shared(config.positive("shared_expert_intermediate_size"), gated=True) if qwen2 else None,
        **read_shared(config, norm_eps=1e-6),
    )


def _is_qwen2(config: ConfigReader) -> bool:
    return "Qwen2MoeForCausalLM" in config.strings("architectures") or config.get("model_type") == "qwen2_moe"


def _qwen2(config: ConfigReader, heads: GroupedAttention) -> GroupedAttention:
    return replace(heads, qkv_bias=config.flag("qkv_bias", True))


def _qwen3(config: ConfigReader, heads: GroupedAttention) -> GroupedAttention:
    biased = config.flag("attention_bias", False)
    return replace(heads, qkv_bias=biased, out_bias=biased, norm=QueryKeyNorm.HEAD)


def _layers(config: ConfigReader, form: GroupedAttention) -> tuple[Layer, ...]:
    count, step = config.layers(), config.positive("decoder_sparse_step", default=1)
    dense, windows = set(config.integers("mlp_only_layers") or []), _windows(config, count)
    forms = [replace(form, view=View(window=window)) for window in windows]
    return tuple(Layer(n not in dense and (n + 1) % step == 0, forms[n]) for n in range(count))


def _windows(config: ConfigReader, count: int) -> list[int | None]:
    """Qwen3 has a window in every layer; Qwen2 in those that `layer_types` names, else in even ones below a limit."""
    window = config.window("sliding_window") if config.flag("use_sliding_window", False) else None
    if not _is_qwen2(config):
        return [window] * count
    until = config.integer("max_window_layers", default=28)
    kinds = config.per_layer("layer_types", count, ("full_attention", "sliding_attention")) or [
        "sliding_attention" if n % 2 == 0 and n < until else "full_attention" for n in range(count)
    ]
    return [window if kind == "sliding_attention" else None for kind in kinds]


def tensor_map(spec: ModelSpec, names: TensorNames) -> TensorMap:
    """The publisher's names: `mlp.experts.N.gate_proj` and so on."""
    return TensorMap(router_params(spec, names, sparse=_sparse), manifest(spec, names, PLAIN_TREE.feed_forward))


def _sparse(at: LayerTensors) -> Params:
    params = gate_params(at) | shared_params(at, "shared_expert")
    if at.spec.shared is not None:
        params[f"{at.number}.shared_gate"] = plain(f"{at.block}.shared_expert_gate.weight", 1, at.spec.hidden)
    return params

"""OLMoE (Muennighoff et al. 2024, arXiv 2409.02060): every layer sparse, queries and keys normalized over all heads."""

from dataclasses import replace

from experts.checkpoint.source import plain
from router_service.models.families.common import (
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
from router_service.models.spec import Gate, GroupedAttention, Layer, ModelSpec, QueryKeyNorm, TensorMap

ARCHITECTURES = ("OlmoeForCausalLM",)
MODEL_TYPES = ("olmoe",)


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads, biased = read_heads(config), config.flag("attention_bias", False)
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=(Layer(sparse=True),) * config.layers(),
        attention=replace(
            heads,
            qkv_bias=biased,
            out_bias=biased,
            norm=QueryKeyNorm.WHOLE,
            clip=config.number("clip_qkv", None, above=0),
        ),
        rope=config.rope(heads.head_dim, 1e4),
        gate=Gate(
            **read_choice(config, "num_experts", "num_local_experts"),
            normalize=config.flag("norm_topk_prob", False),
        ),
        expert_ffn=config.positive("intermediate_size"),
        dense_ffn=0,
        **read_shared(config, norm_eps=1e-5),
    )


def tensor_map(spec: ModelSpec, there: TensorNames) -> TensorMap:
    """The makers' names: `mlp.experts.N.gate_proj` and so on."""
    assert isinstance(spec.attention, GroupedAttention)
    params = outer_params(spec)
    for layer in range(spec.layers):
        prefix = f"model.layers.{layer}"
        params |= norm_params(spec, layer, prefix)
        params |= grouped_attention_params(spec, spec.attention, there, layer, prefix)
        params[f"{layer}.gate"] = plain(f"{prefix}.mlp.gate.weight", spec.gate.experts, spec.hidden)
    return TensorMap(params, manifest(spec, there, lambda layer: f"model.layers.{layer}.mlp"))

"""OLMoE (Muennighoff et al. 2024, arXiv 2409.02060): every layer sparse, queries and keys normalized over all heads."""

from dataclasses import replace

from router_service.models.attention_forms import GroupedAttention, QueryKeyNorm
from router_service.models.families.common import (
    PLAIN_TREE,
    read_gate_sizes,
    read_heads,
    read_shared,
    router_params,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.manifests import manifest
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, Layer, ModelSpec, TensorMap

ARCHITECTURES = ("OlmoeForCausalLM",)
MODEL_TYPES = ("olmoe",)


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads = read_heads(config)
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=(Layer(True, _attention(config, heads)),) * config.layers(),
        rope=config.rope(heads.head_dim, 1e4),
        gate=Gate(
            **read_gate_sizes(config, "num_experts", "num_local_experts"),
            normalize=config.flag("norm_topk_prob", False),
        ),
        expert_ffn=config.positive("intermediate_size"),
        dense_ffn=0,
        **read_shared(config, norm_eps=1e-5),
    )


def _attention(config: ConfigReader, heads: GroupedAttention) -> GroupedAttention:
    biased, clip = config.flag("attention_bias", False), config.number("clip_qkv", None, above=0)
    return replace(heads, qkv_bias=biased, out_bias=biased, norm=QueryKeyNorm.WHOLE, clip=clip)


def tensor_map(spec: ModelSpec, names: TensorNames) -> TensorMap:
    """The publisher's names: `mlp.experts.N.gate_proj` and so on."""
    return TensorMap(router_params(spec, names), manifest(spec, names, PLAIN_TREE.feed_forward))

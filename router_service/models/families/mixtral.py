"""Mixtral (Jiang et al. 2024, arXiv 2401.04088): every layer sparse, softmax over experts, K weights that sum to 1."""

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
from router_service.models.spec import Gate, GroupedAttention, Layer, ModelSpec, TensorMap

ARCHITECTURES = ("MixtralForCausalLM",)
MODEL_TYPES = ("mixtral",)


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads = read_heads(config)
    layer = Layer(sparse=True, window=config.window("sliding_window"))
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=(layer,) * config.layers(),
        attention=heads,
        rope=config.rope(heads.head_dim, 1e6),
        gate=Gate(**read_choice(config, "num_local_experts", "num_experts"), normalize=True),
        expert_ffn=config.positive("intermediate_size"),
        dense_ffn=0,
        **read_shared(config, norm_eps=1e-5),
    )


def tensor_map(spec: ModelSpec, there: TensorNames) -> TensorMap:
    """The makers' names: `block_sparse_moe.experts.N.w1/w3/w2` are gate, up and down. transformers' own say `mlp`."""
    moe = "mlp" if there.has("model.layers.0.mlp.gate.weight") else "block_sparse_moe"
    assert isinstance(spec.attention, GroupedAttention)
    params = outer_params(spec)
    for layer in range(spec.layers):
        prefix = f"model.layers.{layer}"
        params |= norm_params(spec, layer, prefix)
        params |= grouped_attention_params(spec, spec.attention, there, layer, prefix)
        params[f"{layer}.gate"] = plain(f"{prefix}.{moe}.gate.weight", spec.gate.experts, spec.hidden)
    return TensorMap(params, manifest(spec, there, lambda layer: f"model.layers.{layer}.{moe}", ("w1", "w3", "w2")))

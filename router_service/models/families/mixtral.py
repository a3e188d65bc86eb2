"""Mixtral (Jiang et al. 2024, arXiv 2401.04088): every layer sparse, softmax over experts, K weights that sum to 1."""

from dataclasses import replace

from router_service.models.families.common import (
    Tree,
    read_gate_sizes,
    read_heads,
    read_shared,
    router_params,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.manifests import manifest
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, Layer, ModelSpec, TensorMap
from router_service.models.view import View

ARCHITECTURES = ("MixtralForCausalLM",)
MODEL_TYPES = ("mixtral",)


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads = read_heads(config)
    layer = Layer(True, replace(heads, view=View(window=config.window("sliding_window"))))
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=(layer,) * config.layers(),
        rope=config.rope(heads.head_dim, 1e6),
        gate=Gate(**read_gate_sizes(config, "num_local_experts", "num_experts"), normalize=True),
        expert_ffn=config.positive("intermediate_size"),
        dense_ffn=0,
        **read_shared(config, norm_eps=1e-5),
    )


def tensor_map(spec: ModelSpec, names: TensorNames) -> TensorMap:
    """The publisher's names: `block_sparse_moe.experts.N.w1/w3/w2` are gate, up and down. transformers uses `mlp`."""
    tree = Tree(block="mlp" if names.has("model.layers.0.mlp.gate.weight") else "block_sparse_moe")
    experts = manifest(spec, names, tree.feed_forward, ("w1", "w3", "w2"))
    return TensorMap(router_params(spec, names, tree), experts)

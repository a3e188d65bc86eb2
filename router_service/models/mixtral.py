"""Mixtral (Jiang et al. 2024, arXiv 2401.04088): every layer sparse, softmax over experts, K weights that sum to 1."""

from experts.manifest import ExpertManifest, ExpertTensors
from router_service.models.common import backbone_params, read_backbone, stacked
from router_service.models.spec import ConfigReader, Gate, ModelSpec, TensorMap

ARCHITECTURE = "MixtralForCausalLM"
MODEL_TYPE = "mixtral"


def read_spec(config: ConfigReader, where: str) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    shared = read_backbone(config, where, rope_theta=1e6, norm_eps=1e-5)
    return ModelSpec(
        family=MODEL_TYPE,
        moe_layers=tuple(range(shared["layers"])),
        expert_ffn=config.positive("intermediate_size"),
        dense_ffn=0,
        gate=Gate(config.positive("num_local_experts", "num_experts"), config.positive("num_experts_per_tok"), True),
        attention_bias=False,
        qk_norm=False,
        sliding_window=config.get("sliding_window"),
        **shared,
    )


def tensor_map(spec: ModelSpec) -> TensorMap:
    """Names as the makers published them: `block_sparse_moe.experts.N.w1/w3/w2` are gate, up and down."""
    params, experts = backbone_params(spec), {}
    for layer in spec.moe_layers:
        prefix = f"model.layers.{layer}.block_sparse_moe"
        params[f"{layer}.gate"] = stacked([(f"{prefix}.gate.weight", (spec.gate.experts, spec.hidden))])
        for expert in range(spec.gate.experts):
            gate, up, down = (f"{prefix}.experts.{expert}.{name}.weight" for name in ("w1", "w3", "w2"))
            experts[layer, expert] = ExpertTensors(gate, up, down)
    return TensorMap(params, ExpertManifest(spec.hidden, spec.expert_ffn, experts))

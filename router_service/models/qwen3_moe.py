"""Qwen3-MoE (Qwen team 2025, arXiv 2505.09388): normalized queries and keys, some layers may be dense."""

from experts.manifest import ExpertManifest, ExpertTensors
from router_service.models.common import backbone_params, dense_params, read_backbone, stacked
from router_service.models.spec import ConfigReader, Gate, ModelSpec, TensorMap

ARCHITECTURE = "Qwen3MoeForCausalLM"
MODEL_TYPE = "qwen3_moe"


def read_spec(config: ConfigReader, where: str) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    shared = read_backbone(config, where, rope_theta=1e4, norm_eps=1e-6)
    sparse = _moe_layers(config, shared["layers"])
    return ModelSpec(
        family=MODEL_TYPE,
        moe_layers=sparse,
        expert_ffn=config.positive("moe_intermediate_size"),
        dense_ffn=config.positive("intermediate_size") if len(sparse) < shared["layers"] else 0,
        gate=Gate(
            experts=config.positive("num_experts", "num_local_experts"),
            top_k=config.positive("num_experts_per_tok"),
            normalize=bool(config.get("norm_topk_prob", default=False)),
        ),
        attention_bias=bool(config.get("attention_bias", default=False)),
        qk_norm=True,
        sliding_window=config.get("sliding_window") if config.get("use_sliding_window") else None,
        **shared,
    )


def _moe_layers(config: ConfigReader, layers: int) -> tuple[int, ...]:
    step = config.positive("decoder_sparse_step", default=1)
    dense = set(config.get("mlp_only_layers", default=[]))
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)


def tensor_map(spec: ModelSpec) -> TensorMap:
    """Names as the makers published them: `mlp.experts.N.gate_proj` and so on."""
    params, experts = backbone_params(spec), {}
    for layer in range(spec.layers):
        prefix = f"model.layers.{layer}.mlp"
        if layer not in spec.moe_layers:
            params |= dense_params(spec, layer, prefix)
            continue
        params[f"{layer}.gate"] = stacked([(f"{prefix}.gate.weight", (spec.gate.experts, spec.hidden))])
        for expert in range(spec.gate.experts):
            gate, up, down = (f"{prefix}.experts.{expert}.{name}_proj.weight" for name in ("gate", "up", "down"))
            experts[layer, expert] = ExpertTensors(gate, up, down)
    return TensorMap(params, ExpertManifest(spec.hidden, spec.expert_ffn, experts))

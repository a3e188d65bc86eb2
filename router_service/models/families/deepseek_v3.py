"""DeepSeek-V3 (arXiv 2412.19437) and Kimi K2 (arXiv 2507.20534), of the same architecture: latent attention, dense
first layers, sigmoid scores with a correction bias and groups, shared experts, YaRN, FP8 blocks as published.
"""

from typing import Any

from experts.checkpoint.source import Part, plain, stacked
from router_service.models.attention.rope import yarn_scale
from router_service.models.attention_forms import LatentAttention
from router_service.models.families.common import (
    PLAIN_TREE,
    LayerTensors,
    Params,
    gate_params,
    read_gate_sizes,
    read_shared,
    router_params,
    shared_params,
)
from router_service.models.families.config_reader import MAX_EXPERTS, ConfigReader
from router_service.models.families.manifests import manifest
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, Layer, ModelSpec, Rope, Rule, Shared, TensorMap

ARCHITECTURES = ("DeepseekV3ForCausalLM", "KimiK2ForCausalLM")
MODEL_TYPES = ("deepseek_v3", "kimi_k2")


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    for key, allowed in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        config.must_be(key, [allowed])
    layers, dense = config.layers(), config.integer("first_k_dense_replace", default=0)
    ffn, rope_dim = config.positive("moe_intermediate_size"), config.positive("qk_rope_head_dim")
    rope = config.rope(rope_dim, 1e4, interleaved=config.flag("rope_interleave", True), dim_key="qk_rope_head_dim")
    form = _attention(config, rope)
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=tuple(Layer(n >= dense, form) for n in range(layers)),
        rope=rope,
        gate=_gate(config),
        expert_ffn=ffn,
        dense_ffn=config.positive("intermediate_size") if dense else 0,
        shared=_shared(config, ffn),
        **read_shared(config, norm_eps=1e-6),
    )


def _attention(config: ConfigReader, rope: Rope) -> LatentAttention:
    rank, nope_dim = config.integer("q_lora_rank", default=None, least=1), config.positive("qk_nope_head_dim")
    biased = config.flag("attention_bias", False)
    if biased and rank is None:
        raise config.error("attention_bias", biased, "it is supported only with a q_lora_rank")
    return LatentAttention(
        heads=config.positive("num_attention_heads"),
        query_rank=rank,
        kv_rank=config.positive("kv_lora_rank"),
        nope_dim=nope_dim,
        rope_dim=rope.dim,
        value_dim=config.positive("v_head_dim"),
        # Squared, because YaRN scales queries and keys, and a logit is the product of both.
        scale=(nope_dim + rope.dim) ** -0.5 * _stretched_scale(rope) ** 2,
        bias=biased,
    )


def _stretched_scale(rope: Rope) -> float:
    """YaRN scales the attention logits here, instead of queries and keys."""
    numbers: dict[str, Any] = dict(rope.scaling)
    mscale = numbers.get("mscale_all_dim")
    return yarn_scale(numbers["factor"], mscale) if rope.kind != "default" and mscale else 1.0


def _gate(config: ConfigReader) -> Gate:
    keys = ("n_routed_experts", "num_local_experts", "num_experts")
    sizes, experts_key = read_gate_sizes(config, *keys), config.key_of(*keys)
    experts, top_k = sizes["experts"], sizes["top_k"]
    groups = config.positive("n_group", default=1)
    top_groups = config.positive("topk_group", default=1)
    if experts % groups or (groups > 1 and experts // groups < 2):
        raise config.error(
            "n_group", groups, f"it must divide the {experts} experts ({experts_key}) into groups of at least 2"
        )
    if top_groups > groups or top_k > top_groups * (experts // groups):
        raise config.error(
            "topk_group",
            top_groups,
            f"of {groups} groups (n_group) they must hold num_experts_per_tok experts ({experts_key})",
        )
    return Gate(
        experts=experts,
        top_k=top_k,
        rule=Rule.SIGMOID_GROUPS,
        normalize=config.flag("norm_topk_prob", True),
        scale=config.number("routed_scaling_factor", 1.0, above=0, most=1e6),
        groups=groups,
        top_groups=top_groups,
        correction=True,
        float32=True,
    )


def _shared(config: ConfigReader, ffn: int) -> Shared | None:
    """Read the shared experts: several are stored, and computed, as one of their total width."""
    count = config.integer("n_shared_experts", default=0, most=MAX_EXPERTS)
    return Shared(ffn * count) if count else None


def tensor_map(spec: ModelSpec, names: TensorNames) -> TensorMap:
    """The publisher's names: `self_attn.kv_a_proj_with_mqa`, `mlp.experts.N.gate_proj`, `mlp.shared_experts` etc."""
    params = router_params(spec, names, sparse=_sparse, attention=_attention_params)
    return TensorMap(params, manifest(spec, names, PLAIN_TREE.feed_forward))


def _attention_params(at: LayerTensors) -> Params:
    form, names, layer, prefix, hidden = at.layer.attention, at.names, at.number, at.attention, at.spec.hidden
    assert isinstance(form, LatentAttention)
    queries, made = form.heads * form.query_dim, form.heads * (form.nope_dim + form.value_dim)
    first = ("q_proj", queries) if form.query_rank is None else ("q_a_proj", form.query_rank)
    latents = ("kv_a_proj_with_mqa", form.cached)
    params = {
        f"{layer}.qkv": stacked(*(names.matrix(f"{prefix}.{n}.weight", rows, hidden) for n, rows in (first, latents))),
        f"{layer}.kv_a_norm": plain(f"{prefix}.kv_a_layernorm.weight", form.kv_rank),
        f"{layer}.kv_b": stacked(names.matrix(f"{prefix}.kv_b_proj.weight", made, form.kv_rank)),
        f"{layer}.out": stacked(names.matrix(f"{prefix}.o_proj.weight", hidden, form.heads * form.value_dim)),
    }
    if form.query_rank is not None:
        params[f"{layer}.q_a_norm"] = plain(f"{prefix}.q_a_layernorm.weight", form.query_rank)
        params[f"{layer}.q_b"] = stacked(names.matrix(f"{prefix}.q_b_proj.weight", queries, form.query_rank))
    if form.bias:
        params[f"{layer}.qkv_bias"] = stacked(*(Part(f"{prefix}.{n}.bias", (rows,)) for n, rows in (first, latents)))
        params[f"{layer}.out_bias"] = plain(f"{prefix}.o_proj.bias", hidden)
    return params


def _sparse(at: LayerTensors) -> Params:
    name = f"{at.block}.gate.e_score_correction_bias"
    # float32 as in transformers: rounded, it would choose other experts where scores are close.
    correction = {f"{at.number}.gate_correction": plain(name, at.spec.gate.experts, float32=True)}
    return gate_params(at, float32=True) | correction | shared_params(at, "shared_experts")


def skipped(spec: ModelSpec, name: str) -> str | None:
    """Layers after the last are for multi-token prediction (speculative decoding), which is not implemented."""
    prefix, _, rest = name.partition("model.layers.")
    number = rest.partition(".")[0]
    if not prefix and number.isdigit() and int(number) >= spec.layers:
        return "multi-token prediction"
    return None

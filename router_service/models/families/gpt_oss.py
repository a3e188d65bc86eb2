"""gpt-oss (OpenAI 2025, arXiv 2508.10925): attention sinks, a sliding window in every second layer, clamped SwiGLU
with biases, experts in MXFP4 as published.
"""

from dataclasses import replace

from experts.checkpoint.manifest import ExpertManifest, ExpertSource
from experts.checkpoint.source import Encoding, Layout, Part, plain, stacked
from kernels.weights import Activation, ExpertForm
from router_service.models.families.common import (
    fused_experts,
    grouped_attention_params,
    manifest_of,
    norm_params,
    outer_params,
    read_choice,
    read_heads,
    read_shared,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, GroupedAttention, Layer, ModelSpec, Rule, TensorMap

ARCHITECTURES = ("GptOssForCausalLM",)
MODEL_TYPES = ("gpt_oss",)


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads, count = read_heads(config), config.layers()
    biased = config.flag("attention_bias", True)
    window = config.window("sliding_window")
    kinds = config.per_layer("layer_types", count, ("full_attention", "sliding_attention")) or [
        "full_attention" if n % 2 else "sliding_attention" for n in range(count)
    ]
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=tuple(Layer(True, window=window if kind == "sliding_attention" else None) for kind in kinds),
        attention=replace(heads, qkv_bias=biased, out_bias=biased, sinks=True),
        rope=config.rope(heads.head_dim, 150000.0),
        gate=Gate(**read_choice(config, "num_local_experts", "num_experts"), rule=Rule.TOPK_SOFTMAX, bias=True),
        expert_ffn=config.positive("intermediate_size"),
        dense_ffn=0,
        form=ExpertForm(
            Activation.CLAMPED_SWIGLU,
            alpha=config.number("swiglu_alpha", 1.702, least=-1e6, most=1e6),
            limit=config.number("swiglu_limit", 7.0, above=0),
        ),
        norms_round_last=True,
        **read_shared(config, norm_eps=1e-5),
    )


def tensor_map(spec: ModelSpec, there: TensorNames) -> TensorMap:
    """The makers' names: `mlp.experts.gate_up_proj` (or its `_blocks` and `_scales`), gate and up in turn."""
    assert isinstance(spec.attention, GroupedAttention)
    params = outer_params(spec)
    for layer in range(spec.layers):
        prefix = f"model.layers.{layer}"
        params |= norm_params(spec, layer, prefix)
        params |= grouped_attention_params(spec, spec.attention, there, layer, prefix)
        params[f"{layer}.sinks"] = plain(f"{prefix}.self_attn.sinks", spec.attention.heads)
        params[f"{layer}.gate"] = plain(f"{prefix}.mlp.router.weight", spec.gate.experts, spec.hidden)
        params[f"{layer}.gate_bias"] = plain(f"{prefix}.mlp.router.bias", spec.gate.experts)
    return TensorMap(params, _experts(spec, there))


def _experts(spec: ModelSpec, there: TensorNames) -> ExpertManifest:
    if there.has(f"{_block(spec.moe_layers[0])}.experts.gate_up_proj_blocks"):
        return manifest_of(spec, lambda layer, expert: _mxfp4(spec, layer, expert))
    source = fused_experts(spec, _block, gate_up=Layout.TRANSPOSED_INTERLEAVED, down=Layout.TRANSPOSED, biases=True)
    return manifest_of(spec, source)


def _block(layer: int) -> str:
    return f"model.layers.{layer}.mlp"


def _mxfp4(spec: ModelSpec, layer: int, expert: int) -> ExpertSource:
    prefix, entry = f"{_block(layer)}.experts", (expert, spec.gate.experts)
    up, down = (2 * spec.expert_ffn, spec.hidden), (spec.hidden, spec.expert_ffn)
    return ExpertSource(
        stacked(Part(f"{prefix}.gate_up_proj", up, Layout.INTERLEAVED, entry, Encoding.MXFP4)),
        stacked(Part(f"{prefix}.down_proj", down, Layout.PLAIN, entry, Encoding.MXFP4)),
        stacked(Part(f"{prefix}.gate_up_proj_bias", up[:1], Layout.INTERLEAVED, entry)),
        stacked(Part(f"{prefix}.down_proj_bias", down[:1], Layout.PLAIN, entry)),
    )

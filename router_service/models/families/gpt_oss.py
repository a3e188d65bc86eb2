"""gpt-oss (OpenAI 2025, arXiv 2508.10925): attention sinks, a sliding window in every second layer, clamped SwiGLU
with biases, experts in MXFP4 as published.
"""

from dataclasses import replace

from experts.checkpoint.encodings.mxfp4 import Mxfp4Encoding
from experts.checkpoint.manifest import ExpertManifest, ExpertSource
from experts.checkpoint.source import Layout, Part, plain, stacked
from kernels.weights import Activation, ExpertForm
from router_service.models.attention_forms import GroupedAttention
from router_service.models.families.common import (
    PLAIN_TREE,
    LayerTensors,
    Params,
    gate_params,
    grouped_attention_params,
    read_gate_sizes,
    read_heads,
    read_shared,
    router_params,
)
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.manifests import fused_experts, manifest_of
from router_service.models.families.names import TensorNames
from router_service.models.spec import Gate, Layer, ModelSpec, Rule, TensorMap
from router_service.models.view import View

ARCHITECTURES = ("GptOssForCausalLM",)
MODEL_TYPES = ("gpt_oss",)
MXFP4 = Mxfp4Encoding()


def read_spec(config: ConfigReader) -> ModelSpec:
    """Read config.json; errors are `CheckpointError`s that name the key."""
    heads = read_heads(config)
    return ModelSpec(
        family=MODEL_TYPES[0],
        per_layer=_layers(config, heads),
        rope=config.rope(heads.head_dim, 150000.0),
        gate=Gate(**read_gate_sizes(config, "num_local_experts", "num_experts"), rule=Rule.TOPK_SOFTMAX, bias=True),
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


def _layers(config: ConfigReader, heads: GroupedAttention) -> tuple[Layer, ...]:
    count, biased = config.layers(), config.flag("attention_bias", True)
    full = replace(heads, qkv_bias=biased, out_bias=biased, sinks=True)
    sliding = replace(full, view=View(window=config.window("sliding_window")))
    kinds = config.per_layer("layer_types", count, ("full_attention", "sliding_attention")) or [
        "full_attention" if n % 2 else "sliding_attention" for n in range(count)
    ]
    return tuple(Layer(True, sliding if kind == "sliding_attention" else full) for kind in kinds)


def tensor_map(spec: ModelSpec, names: TensorNames) -> TensorMap:
    """The publisher's names: `mlp.experts.gate_up_proj` (or its `_blocks` and `_scales`), gate and up interleaved."""
    return TensorMap(router_params(spec, names, sparse=_gate, attention=_attention), _experts(spec, names))


def _attention(at: LayerTensors) -> Params:
    form = at.grouped
    return grouped_attention_params(at) | {f"{at.number}.sinks": plain(f"{at.attention}.sinks", form.heads)}


def _gate(at: LayerTensors) -> Params:
    bias = plain(f"{at.block}.router.bias", at.spec.gate.experts)
    return gate_params(at, "router") | {f"{at.number}.gate_bias": bias}


def _experts(spec: ModelSpec, names: TensorNames) -> ExpertManifest:
    block = PLAIN_TREE.feed_forward
    if names.encoding(f"{block(spec.moe_layers[0])}.experts.gate_up_proj") == MXFP4:
        return manifest_of(spec, lambda layer, expert: _mxfp4(spec, layer, expert))
    source = fused_experts(spec, block, gate_up=Layout.TRANSPOSED_INTERLEAVED, down=Layout.TRANSPOSED, biases=True)
    return manifest_of(spec, source)


def _mxfp4(spec: ModelSpec, layer: int, expert: int) -> ExpertSource:
    prefix, entry = f"{PLAIN_TREE.feed_forward(layer)}.experts", (expert, spec.gate.experts)
    up, down = (2 * spec.expert_ffn, spec.hidden), (spec.hidden, spec.expert_ffn)
    return ExpertSource(
        stacked(Part(f"{prefix}.gate_up_proj", up, Layout.INTERLEAVED, entry, MXFP4)),
        stacked(Part(f"{prefix}.down_proj", down, Layout.PLAIN, entry, MXFP4)),
        stacked(Part(f"{prefix}.gate_up_proj_bias", up[:1], Layout.INTERLEAVED, entry)),
        stacked(Part(f"{prefix}.down_proj_bias", down[:1], Layout.PLAIN, entry)),
    )

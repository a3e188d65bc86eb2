"""What the families share: configuration keys of the same meaning, and tensor names outside what is each one's own."""

from collections.abc import Callable
from typing import Any, TypedDict

from experts.checkpoint.json_reader import MAX_INT32
from experts.checkpoint.manifest import ExpertManifest, ExpertSource
from experts.checkpoint.source import Layout, Part, TensorSource, plain, stacked
from router_service.models.families.config_reader import MAX_EXPERTS, ConfigReader
from router_service.models.families.names import TensorNames
from router_service.models.spec import GroupedAttention, ModelSpec, QueryKeyNorm

Params = dict[str, TensorSource]


def read_shared(config: ConfigReader, norm_eps: float) -> dict[str, Any]:
    """Read the fields of `ModelSpec` that all families call the same; `norm_eps` is a default.

    Raises:
        CheckpointError: another activation than SiLU, or a value that is missing or bad.
    """
    config.must_be("hidden_act", ["silu"])
    return {
        "vocabulary": config.positive("vocab_size"),
        "hidden": config.positive("hidden_size"),
        "context": config.positive("max_position_embeddings", most=MAX_INT32),
        "norm_eps": config.number("rms_norm_eps", norm_eps, least=0, most=1),
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        "eos_token_ids": config.eos(),
        "dtype": config.dtype(),
    }


def read_heads(config: ConfigReader) -> GroupedAttention:
    """Read the sizes of grouped-query attention, without what only some families have.

    Raises:
        CheckpointError: key-value heads that do not divide the heads, or a value that is missing or bad.
    """
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", kv_heads, f"it must divide num_attention_heads, {heads}")
    if config.get("head_dim") is None and hidden % heads:
        raise config.error("num_attention_heads", heads, f"without a head_dim it must divide hidden_size, {hidden}")
    return GroupedAttention(heads, kv_heads, config.positive("head_dim", default=hidden // heads))


class Choice(TypedDict):
    """The sizes of a `Gate`, under its own names."""

    experts: int
    top_k: int


def read_choice(config: ConfigReader, *experts_keys: str, default: int | None = None) -> Choice:
    """Read how many experts a layer has, and how many of them a token uses; `default` of the latter.

    Raises:
        CheckpointError: more than there are, or a value that is missing or bad.
    """
    experts = config.positive(*experts_keys, most=MAX_EXPERTS)
    keys = ("num_experts_per_tok", "experts_per_token")
    top_k = config.positive(*keys, default=default)
    if top_k > experts:
        most = f"it must be at most {config.name(config.key_of(*experts_keys))}, {experts}"
        raise config.error(config.key_of(*keys), top_k, most)
    return Choice(experts=experts, top_k=top_k)


def outer_params(spec: ModelSpec, root: str = "") -> Params:
    """Embedding, final norm and head; `root` is what all the text model's names begin with."""
    params = {
        "embed": plain(f"{root}model.embed_tokens.weight", spec.vocabulary, spec.hidden),
        "norm": plain(f"{root}model.norm.weight", spec.hidden),
    }
    if not spec.tied_embeddings:
        params["head"] = plain(f"{root}lm_head.weight", spec.vocabulary, spec.hidden)
    return params


def norm_params(spec: ModelSpec, layer: int, prefix: str) -> Params:
    """A layer's two norms; `prefix` is what its names begin with."""
    return {
        f"{layer}.input_norm": plain(f"{prefix}.input_layernorm.weight", spec.hidden),
        f"{layer}.post_norm": plain(f"{prefix}.post_attention_layernorm.weight", spec.hidden),
    }


def grouped_attention_params(
    spec: ModelSpec, form: GroupedAttention, there: TensorNames, layer: int, prefix: str
) -> Params:
    """A layer's attention: queries, keys and values as one matrix, the output, what biases and norms the form has."""
    attn, hidden = f"{prefix}.self_attn", spec.hidden
    q, kv = form.heads * form.head_dim, form.kv_heads * form.head_dim
    widths = {"q": q, "k": kv, "v": kv}
    params = {
        f"{layer}.qkv": stacked(*(there.matrix(f"{attn}.{n}_proj.weight", w, hidden) for n, w in widths.items())),
        f"{layer}.out": stacked(there.matrix(f"{attn}.o_proj.weight", hidden, q)),
    }
    if form.qkv_bias:
        params[f"{layer}.qkv_bias"] = stacked(*(Part(f"{attn}.{n}_proj.bias", (w,)) for n, w in widths.items()))
    if form.out_bias:
        params[f"{layer}.out_bias"] = plain(f"{attn}.o_proj.bias", hidden)
    if form.norm in (QueryKeyNorm.HEAD, QueryKeyNorm.WHOLE):
        for name in ("q", "k"):
            width = form.head_dim if form.norm is QueryKeyNorm.HEAD else widths[name]
            params[f"{layer}.{name}_norm"] = plain(f"{attn}.{name}_norm.weight", width)
    return params


def feed_forward_params(there: TensorNames, ours: str, prefix: str, hidden: int, ffn: int) -> Params:
    """A feed-forward that the router computes, `ours`_gate_up and `ours`_down."""
    gate_up = (there.matrix(f"{prefix}.{name}_proj.weight", ffn, hidden) for name in ("gate", "up"))
    return {
        f"{ours}_gate_up": stacked(*gate_up),
        f"{ours}_down": stacked(there.matrix(f"{prefix}.down_proj.weight", hidden, ffn)),
    }


def manifest(
    spec: ModelSpec,
    there: TensorNames,
    block: Callable[[int], str],
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> ExpertManifest:
    """The experts of a family whose makers store each one's three `matrices`; transformers may have fused them.

    `block` is what the names of a layer's MoE block begin with.
    """
    fused = there.has(f"{block(spec.moe_layers[0])}.experts.gate_up_proj")
    source = fused_experts(spec, block) if fused else _separate_experts(spec, there, block, matrices)
    return manifest_of(spec, source)


def manifest_of(spec: ModelSpec, source: Callable[[int, int], ExpertSource]) -> ExpertManifest:
    """All experts of a model, each where `source` says."""
    return ExpertManifest(spec.hidden, spec.expert_ffn, spec.moe_layers, spec.gate.experts, spec.form, source)


def fused_experts(
    spec: ModelSpec,
    block: Callable[[int], str],
    gate_up: Layout = Layout.PLAIN,
    down: Layout = Layout.PLAIN,
    biases: bool = False,
) -> Callable[[int, int], ExpertSource]:
    """Experts of a layer in one tensor each for gate and up, and for down; biases lie as gate and up in turn."""
    hidden, ffn = spec.hidden, spec.expert_ffn

    def source(layer: int, expert: int) -> ExpertSource:
        prefix, entry = f"{block(layer)}.experts", (expert, spec.gate.experts)
        up_bias = Part(f"{prefix}.gate_up_proj_bias", (2 * ffn,), Layout.INTERLEAVED, entry)
        down_bias = Part(f"{prefix}.down_proj_bias", (hidden,), entry=entry)
        return ExpertSource(
            gate_up=stacked(Part(f"{prefix}.gate_up_proj", (2 * ffn, hidden), gate_up, entry)),
            down=stacked(Part(f"{prefix}.down_proj", (hidden, ffn), down, entry)),
            gate_up_bias=stacked(up_bias) if biases else None,
            down_bias=stacked(down_bias) if biases else None,
        )

    return source


def _separate_experts(
    spec: ModelSpec, there: TensorNames, block: Callable[[int], str], matrices: tuple[str, str, str]
) -> Callable[[int, int], ExpertSource]:
    hidden, ffn = spec.hidden, spec.expert_ffn

    def source(layer: int, expert: int) -> ExpertSource:
        gate, up, down = (f"{block(layer)}.experts.{expert}.{name}.weight" for name in matrices)
        return ExpertSource(
            stacked(there.matrix(gate, ffn, hidden), there.matrix(up, ffn, hidden)),
            stacked(there.matrix(down, hidden, ffn)),
        )

    return source

"""Shared by the families: configuration keys with the same meaning, and common tensor names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from experts.checkpoint.json_checks import MAX_INT32
from experts.checkpoint.source import Part, TensorSource, plain, stacked
from router_service.models.attention_forms import GroupedAttention, QueryKeyNorm
from router_service.models.families.config_reader import MAX_EXPERTS, ConfigReader
from router_service.models.families.names import TensorNames
from router_service.models.spec import Layer, ModelSpec

Params = dict[str, TensorSource]


@dataclass(frozen=True, slots=True)
class Tree:
    """Prefixes of a checkpoint's names: `root` of all names, and `block`, the name of a layer's feed-forward."""

    root: str = ""
    block: str = "mlp"

    def layer(self, number: int) -> str:
        """The prefix of a layer's names."""
        return f"{self.root}model.layers.{number}"

    def feed_forward(self, number: int) -> str:
        """The prefix of a layer's experts, gate or dense matrices."""
        return f"{self.layer(number)}.{self.block}"


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """A layer whose parameters are to be mapped: our names begin with its `number`, the checkpoint's as in `tree`."""

    spec: ModelSpec
    names: TensorNames
    tree: Tree
    number: int

    @property
    def layer(self) -> Layer:
        """The layer's spec."""
        return self.spec.per_layer[self.number]

    @property
    def grouped(self) -> GroupedAttention:
        """Its attention, in families that use grouped-query attention only."""
        form = self.layer.attention
        assert isinstance(form, GroupedAttention)
        return form

    @property
    def attention(self) -> str:
        """The prefix of its attention's names."""
        return f"{self.tree.layer(self.number)}.self_attn"

    @property
    def block(self) -> str:
        """The prefix of its experts, gate or dense matrices."""
        return self.tree.feed_forward(self.number)


def read_shared(config: ConfigReader, norm_eps: float) -> dict[str, Any]:
    """Read the fields of `ModelSpec` that have the same keys in all families; `norm_eps` is a default.

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
        "dtype": config.dtype(),
    }


def read_heads(config: ConfigReader) -> GroupedAttention:
    """Read the sizes of grouped-query attention, without options of single families.

    Raises:
        CheckpointError: key-value heads that do not divide the heads, or a value that is missing or bad.
    """
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", kv_heads, f"it must divide num_attention_heads, {heads}")
    if config.get("head_dim") is None and hidden % heads:
        raise config.error("num_attention_heads", heads, f"without a head_dim it must divide hidden_size, {hidden}")
    head_dim = config.positive("head_dim", default=hidden // heads)
    return GroupedAttention(heads=heads, kv_heads=kv_heads, head_dim=head_dim)


class GateSizes(TypedDict):
    """The sizes of a `Gate`, under its own names."""

    experts: int
    top_k: int


def read_gate_sizes(config: ConfigReader, *experts_keys: str, default: int | None = None) -> GateSizes:
    """Read how many experts a layer has and how many a token uses; `default` is for the latter.

    Raises:
        CheckpointError: a token uses more experts than there are, or a value is missing or bad.
    """
    experts = config.positive(*experts_keys, most=MAX_EXPERTS)
    keys = ("num_experts_per_tok", "experts_per_token")
    top_k = config.positive(*keys, default=default)
    if top_k > experts:
        most = f"it must be at most {config.name(config.key_of(*experts_keys))}, {experts}"
        raise config.error(config.key_of(*keys), top_k, most)
    return GateSizes(experts=experts, top_k=top_k)


LayerParams = Callable[[LayerTensors], Params]
PLAIN_TREE = Tree()


def outer_params(spec: ModelSpec, names: TensorNames, root: str = "") -> Params:
    """Embedding, final norm and head; `root` is the prefix of all names of the text model."""
    params = {
        "embed": plain(f"{root}model.embed_tokens.weight", spec.vocabulary, spec.hidden),
        "norm": plain(f"{root}model.norm.weight", spec.hidden),
    }
    if not spec.tied_embeddings:
        params["head"] = stacked(names.matrix(f"{root}lm_head.weight", spec.vocabulary, spec.hidden))
    return params


def norm_params(at: LayerTensors) -> Params:
    """A layer's two norms."""
    prefix, hidden = at.tree.layer(at.number), at.spec.hidden
    return {
        f"{at.number}.input_norm": plain(f"{prefix}.input_layernorm.weight", hidden),
        f"{at.number}.post_norm": plain(f"{prefix}.post_attention_layernorm.weight", hidden),
    }


def grouped_attention_params(at: LayerTensors) -> Params:
    """A layer's attention: queries, keys and values as one matrix, the output, and its biases and norms if any."""
    form, layer, attn, hidden = at.grouped, at.number, at.attention, at.spec.hidden
    q, kv = form.heads * form.head_dim, form.kv_heads * form.head_dim
    widths = {"q": q, "k": kv, "v": kv}
    params = {
        f"{layer}.qkv": stacked(*(at.names.matrix(f"{attn}.{n}_proj.weight", w, hidden) for n, w in widths.items())),
        f"{layer}.out": stacked(at.names.matrix(f"{attn}.o_proj.weight", hidden, q)),
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


def feed_forward_params(at: LayerTensors, kind: str, prefix: str, ffn: int) -> Params:
    """A feed-forward of width `ffn` on the router: the layer's parameters `kind`_gate_up and `kind`_down."""
    names, hidden = at.names, at.spec.hidden
    gate_up = (names.matrix(f"{prefix}.{name}_proj.weight", ffn, hidden) for name in ("gate", "up"))
    return {
        f"{at.number}.{kind}_gate_up": stacked(*gate_up),
        f"{at.number}.{kind}_down": stacked(names.matrix(f"{prefix}.down_proj.weight", hidden, ffn)),
    }


def shared_params(at: LayerTensors, name: str) -> Params:
    """The shared expert, which the checkpoint calls `name`; empty if the model has none."""
    shared = at.spec.shared
    return {} if shared is None else feed_forward_params(at, "shared", f"{at.block}.{name}", shared.ffn)


def gate_params(at: LayerTensors, name: str = "gate", float32: bool = False) -> Params:
    """The matrix that scores a layer's experts, which the checkpoint calls `name`."""
    scores = plain(f"{at.block}.{name}.weight", at.spec.gate.experts, at.spec.hidden, float32=float32)
    return {f"{at.number}.gate": scores}


def router_params(
    spec: ModelSpec,
    names: TensorNames,
    tree: Tree = PLAIN_TREE,
    sparse: LayerParams = gate_params,
    attention: LayerParams = grouped_attention_params,
) -> Params:
    """All parameters of the router. A family gives those of its `attention`, and of `sparse` layers except experts."""
    params = outer_params(spec, names, tree.root)
    for number, layer in enumerate(spec.per_layer):
        at = LayerTensors(spec=spec, names=names, tree=tree, number=number)
        params |= norm_params(at) | attention(at)
        params |= sparse(at) if layer.sparse else feed_forward_params(at, "dense", at.block, spec.dense_ffn)
    return params

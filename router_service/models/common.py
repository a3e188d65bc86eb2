"""What the Llama-shaped families share: their configuration keys and the names of their tensors outside the experts."""

from collections.abc import Iterable
from typing import Any

from experts.checkpoint_error import CheckpointError
from router_service.models.spec import ConfigReader, ModelSpec, ParamSource, Shape

Parts = Iterable[tuple[str, Shape]]


def read_backbone(config: ConfigReader, where: str, rope_theta: float, norm_eps: float) -> dict[str, Any]:
    """Read the fields of `ModelSpec` that all these families call the same; the last two arguments are defaults.

    Raises:
        CheckpointError: key-value heads that do not divide the heads, an odd head size, which rope cannot turn, another
            activation than SiLU, or a value that is missing.
    """
    config.must_be("hidden_act", ["silu"])
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=heads)
    head_dim = config.positive("head_dim", default=hidden // heads)
    if heads % kv_heads:
        raise CheckpointError(f"{where}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}")
    if head_dim % 2:
        raise CheckpointError(f"{where}: head_dim is {head_dim}, rope needs an even number")
    return {
        "vocabulary": config.positive("vocab_size"),
        "hidden": hidden,
        "layers": config.positive("num_hidden_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "context": config.positive("max_position_embeddings"),
        "rope_theta": config.rope_theta(rope_theta),
        "norm_eps": float(config.get("rms_norm_eps", default=norm_eps)),
        "tied_embeddings": bool(config.get("tie_word_embeddings", default=False)),
        "eos_token_ids": config.eos(),
        "dtype": config.dtype(),
    }


def stacked(parts: Parts) -> ParamSource:
    """A parameter of tensors stacked along their first dimension."""
    parts = tuple(parts)
    rows = sum(shape[0] for _, shape in parts)
    return ParamSource((rows, *parts[0][1][1:]), parts)


def backbone_params(spec: ModelSpec) -> dict[str, ParamSource]:
    """Embedding, final norm, head, and each layer's norms and attention, under the names that `backbone.py` reads."""
    table = (spec.vocabulary, spec.hidden)
    params = {
        "embed": stacked([("model.embed_tokens.weight", table)]),
        "norm": stacked([("model.norm.weight", (spec.hidden,))]),
    }
    if not spec.tied_embeddings:
        params["head"] = stacked([("lm_head.weight", table)])
    for layer in range(spec.layers):
        params |= {f"{layer}.{name}": source for name, source in _layer_params(spec, layer).items()}
    return params


def _layer_params(spec: ModelSpec, layer: int) -> dict[str, ParamSource]:
    prefix, hidden = f"model.layers.{layer}", (spec.hidden,)
    widths = {"q": spec.heads * spec.head_dim, "k": spec.kv_heads * spec.head_dim, "v": spec.kv_heads * spec.head_dim}
    attn = f"{prefix}.self_attn"
    params = {
        "input_norm": stacked([(f"{prefix}.input_layernorm.weight", hidden)]),
        "post_norm": stacked([(f"{prefix}.post_attention_layernorm.weight", hidden)]),
        "qkv": stacked((f"{attn}.{n}_proj.weight", (w, spec.hidden)) for n, w in widths.items()),
        "out": stacked([(f"{attn}.o_proj.weight", (spec.hidden, widths["q"]))]),
    }
    if spec.attention_bias:
        params["qkv_bias"] = stacked((f"{attn}.{n}_proj.bias", (w,)) for n, w in widths.items())
        params["out_bias"] = stacked([(f"{attn}.o_proj.bias", hidden)])
    if spec.qk_norm:
        params["q_norm"] = stacked([(f"{attn}.q_norm.weight", (spec.head_dim,))])
        params["k_norm"] = stacked([(f"{attn}.k_norm.weight", (spec.head_dim,))])
    return params


def dense_params(spec: ModelSpec, layer: int, prefix: str) -> dict[str, ParamSource]:
    """A dense layer's feed-forward: gate and up as one matrix, down."""
    wide, tall = (spec.dense_ffn, spec.hidden), (spec.hidden, spec.dense_ffn)
    return {
        f"{layer}.dense_gate_up": stacked((f"{prefix}.{n}_proj.weight", wide) for n in ("gate", "up")),
        f"{layer}.dense_down": stacked([(f"{prefix}.down_proj.weight", tall)]),
    }

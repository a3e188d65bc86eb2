"""A model's routing and attention described in a line."""

from collections import Counter

from kernels.weights import ExpertForm
from router_service.models.spec import Gate, GroupedAttention, Layer, ModelSpec, QueryKeyNorm, Rule

NORMS = {
    QueryKeyNorm.HEAD: "queries and keys normalized by head",
    QueryKeyNorm.WHOLE: "queries and keys normalized over all heads",
    QueryKeyNorm.L2_AFTER_ROPE: "queries and keys normalized after rope",
}


def describe_routing(gate: Gate, form: ExpertForm) -> str:
    """How a token's experts are chosen and weighted."""
    said = [f"{gate.top_k} of {gate.experts} experts a token", *_choice(gate)]
    if gate.normalize:
        said.append("weights divided by their sum")
    if gate.scale != 1:
        said.append(f"times {gate.scale:g}")
    if form.weight_inputs:
        said.append("the weight multiplies the expert's input")
    return ", ".join(said)


def _choice(gate: Gate) -> list[str]:
    groups = f"only in the best {gate.top_groups} of {gate.groups} groups" if gate.groups > 1 else ""
    bias = "a correction bias added where experts are chosen" if gate.correction else ""
    rules = {
        Rule.SOFTMAX_TOPK: ["softmax over all experts, then the largest"],
        Rule.TOPK_SOFTMAX: ["the largest logits, then softmax over those"],
        Rule.SIGMOID_GROUPS: ["sigmoid of each logit", bias, groups],
        Rule.TOPK_SIGMOID: ["the largest logits, each weighted by its sigmoid"],
    }
    return [part for part in rules[gate.rule] if part]


def describe_attention(spec: ModelSpec) -> str:
    """What kind of attention, and what its layers see."""
    form = spec.attention
    if isinstance(form, GroupedAttention):
        said = [f"grouped-query, {form.heads} heads share {form.kv_heads} keys and values of {form.head_dim}"]
        said += [NORMS[form.norm]] if form.norm in NORMS else []
        said += ["a sink in each head"] if form.sinks else []
    else:
        said = [
            f"latent, {form.heads} heads' keys and values from {form.kv_rank} + {form.rope_dim} cached numbers",
            f"queries from {form.query_rank}" if form.query_rank else "queries projected directly",
        ]
    return ", ".join([*said, *_views(spec), f"rope {spec.rope.kind}"])


def _views(spec: ModelSpec) -> list[str]:
    seen = Counter(_view(layer) for layer in spec.per_layer)
    limited = [f"{view} in {count} of {spec.layers} layers" for view, count in seen.items() if view]
    without = sum(not layer.rope for layer in spec.per_layer)
    return limited + ([f"no rope in {without} layers"] if without else [])


def _view(layer: Layer) -> str:
    if layer.window is not None:
        return f"a window of {layer.window} tokens"
    return f"chunks of {layer.chunk} tokens" if layer.chunk is not None else ""

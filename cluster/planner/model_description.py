"""A model's routing and attention described in a line."""

from collections import Counter

from kernels.weights import ExpertForm
from router_service.models.spec import Gate, ModelSpec, Rule
from router_service.models.view import View


def describe_routing(gate: Gate, form: ExpertForm) -> str:
    """How a token's experts are chosen and weighted."""
    parts = [f"{gate.top_k} of {gate.experts} experts a token", *_choice(gate)]
    if gate.normalize:
        parts.append("weights divided by their sum")
    if gate.scale != 1:
        parts.append(f"times {gate.scale:g}")
    if form.weight_inputs:
        parts.append("the weight multiplies the expert's input")
    return ", ".join(parts)


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
    forms = Counter(layer.attention.description for layer in spec.per_layer)
    parts = [form if len(forms) == 1 else _in_layers(form, count, spec) for form, count in forms.items()]
    return ", ".join([*parts, *_views(spec), f"rope {spec.rope.kind}"])


def _views(spec: ModelSpec) -> list[str]:
    seen = Counter(_view(layer.attention.view) for layer in spec.per_layer)
    limited = [_in_layers(view, count, spec) for view, count in seen.items() if view]
    without = sum(not layer.attention.rope for layer in spec.per_layer)
    return limited + ([f"no rope in {without} layers"] if without else [])


def _in_layers(description: str, count: int, spec: ModelSpec) -> str:
    return f"{description} in {count} of {spec.layers} layers"


def _view(view: View) -> str:
    if view.window is not None:
        return f"a window of {view.window} tokens"
    return f"chunks of {view.chunk} tokens" if view.chunk is not None else ""

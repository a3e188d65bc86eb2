"""What the engine needs to know of a model, independent of its family's configuration keys. Sizes in elements."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from experts.checkpoint.manifest import ExpertManifest
from experts.checkpoint.source import TensorSource
from kernels.weights import ExpertForm
from router_service.models.attention_forms import AttentionForm, cached_elements

PLAIN_FORM = ExpertForm()


class Rule(StrEnum):
    """How a token's experts are chosen and weighted; each is a function of `router_service.engine.step.gating`."""

    SOFTMAX_TOPK = "softmax_topk"
    TOPK_SOFTMAX = "topk_softmax"
    SIGMOID_GROUPS = "sigmoid_groups"
    TOPK_SIGMOID = "topk_sigmoid"


@dataclass(frozen=True, slots=True)
class Gate:
    """How a token's `top_k` of `experts` are chosen.

    `normalize` makes the weights sum to 1, then `scale` multiplies them. Of `groups` of consecutive experts only the
    best `top_groups` take part. `bias` is added to the logits; `correction` is added to the scores when experts are
    chosen, not when they are weighted. `float32` computes the logits in float32 whatever the model's dtype.
    """

    experts: int
    top_k: int
    rule: Rule = Rule.SOFTMAX_TOPK
    normalize: bool = False
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    bias: bool = False
    correction: bool = False
    float32: bool = False


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of `dim` elements (Su et al. 2021, arXiv 2104.09864).

    `kind` is default, linear, yarn or llama3; `scaling` holds the numbers of the last three under their names in
    config.json. `interleaved` pairs neighbours, else the first half pairs with the second. `float32` is the dtype of
    the rotation if set, else the model's.
    """

    dim: int
    theta: float
    kind: str = "default"
    scaling: tuple[tuple[str, float], ...] = ()
    interleaved: bool = False
    float32: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: whether it has experts, and its attention."""

    sparse: bool
    attention: AttentionForm


@dataclass(frozen=True, slots=True)
class Shared:
    """An expert of width `ffn` that all tokens use, computed by the router; `gated` weights it by a sigmoid."""

    ffn: int
    gated: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only MoE transformer. `norms_round_last` as `rms_norm` has it."""

    family: str
    vocabulary: int
    hidden: int
    context: int
    norm_eps: float
    per_layer: tuple[Layer, ...]
    rope: Rope
    gate: Gate
    expert_ffn: int
    dense_ffn: int
    tied_embeddings: bool
    dtype: str
    form: ExpertForm = PLAIN_FORM
    shared: Shared | None = None
    norms_round_last: bool = False

    @property
    def layers(self) -> int:
        """L, all layers."""
        return len(self.per_layer)

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The layers with experts; the others are dense."""
        return tuple(number for number, layer in enumerate(self.per_layer) if layer.sparse)

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that one token occupies in the cache over all layers."""
        return sum(cached_elements(layer.attention) for layer in self.per_layer)


@dataclass(frozen=True, slots=True)
class TensorMap:
    """Maps our names to what the checkpoint stores: the router's parameters, and the experts."""

    router: Mapping[str, TensorSource]
    experts: ExpertManifest

    @property
    def router_elements(self) -> int:
        """Parameters of the router."""
        return sum(source.elements for source in self.router.values())

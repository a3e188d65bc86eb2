"""What the engine must know of a model, whatever its family's configuration calls it. Sizes in elements."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from experts.checkpoint.manifest import ExpertManifest
from experts.checkpoint.source import TensorSource
from kernels.weights import ExpertForm

PLAIN_FORM = ExpertForm()


class Rule(StrEnum):
    """How a token's experts are chosen and weighted; each is a function of `router_service.engine.gating`."""

    SOFTMAX_TOPK = "softmax_topk"
    TOPK_SOFTMAX = "topk_softmax"
    SIGMOID_GROUPS = "sigmoid_groups"
    TOPK_SIGMOID = "topk_sigmoid"


@dataclass(frozen=True, slots=True)
class Gate:
    """How a token's `top_k` of `experts` are chosen.

    `normalize` makes the weights sum to 1, then `scale` multiplies them. Of `groups` runs of neighbouring experts only
    the best `top_groups` take part. `bias` is added to the logits; `correction` is added to the scores when experts are
    chosen, not when they are weighted. `float32` computes the logits so, whatever the model's dtype.
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


class QueryKeyNorm(StrEnum):
    """What normalizes queries and keys."""

    NONE = "none"
    HEAD = "head"  # each head, before rope
    WHOLE = "whole"  # all heads of a token together, before rope
    L2_AFTER_ROPE = "l2_after_rope"  # each head without a weight, after rope and only in layers with rope


@dataclass(frozen=True, slots=True)
class Temperature:
    """Queries at position p of layers without rope are multiplied by 1 + scale * log(1 + floor((p + 1) / floor))."""

    scale: float
    floor: float


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Grouped-query attention (Ainslie et al. 2023): `heads` queries share `kv_heads` keys and values of `head_dim`.

    `clip` bounds queries, keys and values; `sinks` gives each head a logit without a value.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    norm: QueryKeyNorm = QueryKeyNorm.NONE
    clip: float | None = None
    sinks: bool = False
    temperature: Temperature | None = None

    @property
    def cached(self) -> int:
        """Elements that a token occupies in one layer's cache."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values are made of a cached latent.

    A head's query and key have `nope_dim` elements without and `rope_dim` with a position, the latter shared by the
    heads' keys; `query_rank` None projects queries directly. `scale` multiplies the logits.
    """

    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    bias: bool = False

    @property
    def cached(self) -> int:
        """Elements that a token occupies in one layer's cache: the latent and the rope key."""
        return self.kv_rank + self.rope_dim

    @property
    def query_dim(self) -> int:
        """Elements of a head's query."""
        return self.nope_dim + self.rope_dim


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of `dim` elements (Su et al. 2021, arXiv 2104.09864).

    `kind` default, linear, yarn or llama3; `scaling` holds the numbers of the last three under their names in
    config.json. `interleaved` pairs neighbours, else the first half pairs with the second. `float32` turns in float32.
    """

    dim: int
    theta: float
    kind: str = "default"
    scaling: tuple[tuple[str, float], ...] = ()
    interleaved: bool = False
    float32: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: whether it has experts, whether it has rope, and what its attention sees.

    `window` sees so many tokens back, itself included; `chunk` sees back to the last multiple of so many tokens.
    """

    sparse: bool
    rope: bool = True
    window: int | None = None
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """An expert that all tokens use, `ffn` wide, computed by the router; `gated` weights it by a sigmoid."""

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
    attention: GroupedAttention | LatentAttention
    rope: Rope
    gate: Gate
    expert_ffn: int
    dense_ffn: int
    tied_embeddings: bool
    eos_token_ids: tuple[int, ...]
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
        return self.layers * self.attention.cached


@dataclass(frozen=True, slots=True)
class TensorMap:
    """From our names to what the checkpoint stores: the router's parameters, and the experts."""

    router: Mapping[str, TensorSource]
    experts: ExpertManifest

    @property
    def router_elements(self) -> int:
        """Parameters of the router."""
        return sum(source.elements for source in self.router.values())

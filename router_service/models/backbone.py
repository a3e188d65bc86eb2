"""A model without its routed experts: embedding, attention over the paged cache, dense and shared layers, the head.

Shapes: T tokens of the step, R rows of them, L rows whose logits are wanted, D hidden, E experts, V vocabulary.
Rounding follows transformers: norms in float32, rope in the family's dtype.
"""

from collections.abc import Mapping

from torch import Tensor

from kernels.formats.quantized import Matrix
from kernels.ops import Ops
from router_service.models.attention.layer import LayerParts
from router_service.models.attention.rope import Rotation, frequencies, rotation
from router_service.models.attention.table import attention_of
from router_service.models.kv_cache import KVCache
from router_service.models.projections import Projections
from router_service.models.spec import ModelSpec
from router_service.models.step_batch import StepBatch


class Backbone:
    """The model's layers. `weights` are as `models.weights` loads them, all on one device."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, Matrix], cache: KVCache, ops: Ops) -> None:
        self.spec = spec
        self.cache = cache
        self._w = Projections(weights, ops)
        self._elements = ops.elements
        self._head = "embed" if spec.tied_embeddings else "head"
        angles, self._rope_factor = frequencies(spec.rope)
        self._angles = angles.to(cache.device)
        self._attentions = [
            attention_of(LayerParts(n, spec, self._w, ops, cache.group_of(n), cache.of_layer(n)))
            for n in range(spec.layers)
        ]
        self.sparse_layers = frozenset(spec.moe_layers)

    def embed(self, batch: StepBatch) -> tuple[Tensor, Rotation]:
        """Return x_TD and the rotation of the step's positions, which all layers share."""
        x_TD = self._w.rows("embed", batch.token_ids_T)
        return x_TD, rotation(batch.positions_T, self.spec.rope, self._angles, self._rope_factor, x_TD.dtype)

    def attention(self, layer: int, x_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """Return x_TD + attention(norm(x_TD)); the step's keys and values are written to the cache."""
        return x_TD + self._attentions[layer](self._normed(f"{layer}.input_norm", x_TD), by, batch)

    def feed_forward_input(self, layer: int, x_TD: Tensor) -> Tensor:
        """Return the normalized input of the layer's gate, experts or dense feed-forward, h_TD."""
        return self._normed(f"{layer}.post_norm", x_TD)

    def gate_logits(self, layer: int, h_TD: Tensor) -> Tensor:
        """Return logits_TE in the model's dtype, or in float32 if `Gate.float32` is set."""
        return self._w.apply(f"{layer}.gate", h_TD.float() if self.spec.gate.float32 else h_TD)

    def gate_correction(self, layer: int) -> Tensor | None:
        """Return the correction of the scores for choosing experts, float32 [E]; None without one."""
        return self._w.tensor(f"{layer}.gate_correction") if self.spec.gate.correction else None

    def dense(self, layer: int, h_TD: Tensor) -> Tensor:
        """Return the feed-forward of a layer without experts."""
        return self._feed_forward(f"{layer}.dense", h_TD)

    def shared(self, layer: int, h_TD: Tensor) -> Tensor:
        """Return the output of the shared expert, [T, D]. The model must have one (`spec.shared`)."""
        y_TD = self._feed_forward(f"{layer}.shared", h_TD)
        assert self.spec.shared is not None
        if not self.spec.shared.gated:
            return y_TD
        return self._elements.sigmoid(self._w.apply(f"{layer}.shared_gate", h_TD)) * y_TD

    def first_product(self, h_TD: Tensor) -> Tensor:
        """The first projection of the first layer's attention, as a sample of a step's computation."""
        return self._attentions[0].first_product(h_TD)

    def logits(self, x_TD: Tensor, rows_L: Tensor) -> Tensor:
        """Return logits_LV, float32, of the rows whose logits are wanted; there may be none."""
        if not len(rows_L):
            return x_TD.new_empty(0, self.spec.vocabulary).float()
        return self.head(x_TD[rows_L])

    def head(self, x_RD: Tensor) -> Tensor:
        """Return logits_RV, float32, of hidden states behind the last layer."""
        return self._w.apply(self._head, self._normed("norm", x_RD)).float()

    def _normed(self, name: str, x_TD: Tensor) -> Tensor:
        return self._elements.rms_norm(x_TD, self._w.tensor(name), self.spec.norm_eps, self.spec.norms_round_last)

    def _feed_forward(self, name: str, h_TD: Tensor) -> Tensor:
        return self._w.apply(f"{name}_down", self._elements.silu_mul(self._w.apply(f"{name}_gate_up", h_TD)))

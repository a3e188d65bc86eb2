"""The Llama-shaped backbone: embedding, attention over the paged cache, dense layers, the gate's logits, the head.

Shapes: T tokens of the step, D hidden, H heads, J key-value heads, G = H / J heads a key-value head, C head size,
M tokens of context, V vocabulary. Rounding follows transformers: norms in float32, rope in the model's dtype.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.select import Ops
from router_service.kv_cache import KVCache
from router_service.models.spec import ModelSpec
from router_service.step_batch import Segment, StepBatch


@dataclass(frozen=True, slots=True)
class Rope:
    """Cosines and sines of a step's positions, `[T, 1, C]` in the model's dtype."""

    cos_T1C: Tensor
    sin_T1C: Tensor


class Backbone:
    """A model without its routed experts. Weights as `models.weights` loads them, all of one dtype and device."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, Tensor], cache: KVCache, ops: Ops) -> None:
        self.spec = spec
        self.cache = cache
        self._w = weights
        self._linear = ops.linear
        self._head = weights["embed"] if spec.tied_embeddings else weights["head"]
        self._inverse_frequencies = _inverse_frequencies(spec).to(weights["embed"].device)
        self._widths = [spec.heads, spec.kv_heads, spec.kv_heads]
        self.sparse_layers = frozenset(spec.moe_layers)

    def embed(self, batch: StepBatch) -> tuple[Tensor, Rope]:
        """Return x_TD and the step's rope, which all its layers share."""
        x_TD = F.embedding(batch.token_ids_T, self._w["embed"])
        angles = torch.outer(batch.positions_T.float(), self._inverse_frequencies)
        angles_T1C = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        return x_TD, Rope(angles_T1C.cos().to(x_TD.dtype), angles_T1C.sin().to(x_TD.dtype))

    def attention(self, layer: int, x_TD: Tensor, rope: Rope, batch: StepBatch) -> Tensor:
        """Return x_TD + attention(norm(x_TD)); the step's keys and values are written to the cache."""
        q_THC, k_TJC, v_TJC = self._queries_keys_values(layer, x_TD, rope)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[batch.slots_T] = k_TJC
        values[batch.slots_T] = v_TJC
        out_THC = torch.empty_like(q_THC)
        for segment in batch.segments:
            rows = slice(segment.start, segment.start + segment.length)
            out_THC[rows] = self._attend(q_THC[rows], keys[segment.slots], values[segment.slots], segment)
        return x_TD + self._project(f"{layer}.out", out_THC.flatten(1))

    def feed_forward_input(self, layer: int, x_TD: Tensor) -> Tensor:
        """Return the normalized rows that the layer's experts, gate or dense matrices take."""
        return _norm(x_TD, self._w[f"{layer}.post_norm"], self.spec.norm_eps)

    def gate_logits(self, layer: int, h_TD: Tensor) -> Tensor:
        """Return logits_TE in the model's dtype."""
        return F.linear(h_TD, self._w[f"{layer}.gate"])

    def dense(self, layer: int, h_TD: Tensor) -> Tensor:
        """Return the feed-forward of a layer without experts."""
        gate_TF, up_TF = self._project(f"{layer}.dense_gate_up", h_TD).chunk(2, dim=-1)
        return self._project(f"{layer}.dense_down", F.silu(gate_TF) * up_TF)

    def queries(self, layer: int, h_TD: Tensor) -> Tensor:
        """Return the layer's stacked queries, keys and values [T, (H + 2J) * C], before norms and rope."""
        return self._project(f"{layer}.qkv", h_TD)

    def logits(self, x_TD: Tensor, batch: StepBatch) -> Tensor:
        """Return logits_BV, float32, of each segment's last row."""
        x_BD = _norm(x_TD[batch.last_rows_B], self._w["norm"], self.spec.norm_eps)
        return self._linear(x_BD, self._head).float()

    def _project(self, name: str, x_TD: Tensor) -> Tensor:
        y_TO, bias = self._linear(x_TD, self._w[name]), self._w.get(f"{name}_bias")
        return y_TO if bias is None else y_TO + bias

    def _queries_keys_values(self, layer: int, x_TD: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        h_TD = _norm(x_TD, self._w[f"{layer}.input_norm"], self.spec.norm_eps)
        qkv = self.queries(layer, h_TD)
        q_THC, k_TJC, v_TJC = torch.split(qkv.view(len(x_TD), -1, self.spec.head_dim), self._widths, dim=1)
        if self.spec.qk_norm:
            q_THC = _norm(q_THC, self._w[f"{layer}.q_norm"], self.spec.norm_eps)
            k_TJC = _norm(k_TJC, self._w[f"{layer}.k_norm"], self.spec.norm_eps)
        return _rotate(q_THC, rope), _rotate(k_TJC, rope), v_TJC

    def _attend(self, q_NHC: Tensor, k_MJC: Tensor, v_MJC: Tensor, segment: Segment) -> Tensor:
        if segment.length == 1:
            return _attend_one(q_NHC, k_MJC, v_MJC, self.spec.sliding_window)
        q = q_NHC.transpose(0, 1).unsqueeze(0)
        groups = self.spec.heads // self.spec.kv_heads
        k, v = (t.transpose(0, 1).repeat_interleave(groups, dim=0).unsqueeze(0) for t in (k_MJC, v_MJC))
        mask = self._mask(segment, q.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return out.squeeze(0).transpose(0, 1)

    def _mask(self, segment: Segment, device: torch.device) -> Tensor | None:
        """Which of M positions each of N rows sees; None where the plain causal triangle says it."""
        window = self.spec.sliding_window
        whole = segment.length == segment.context
        if whole and (window is None or segment.context <= window):
            return None
        key = torch.arange(segment.context, device=device)
        row = torch.arange(segment.context - segment.length, segment.context, device=device)[:, None]
        mask = key <= row
        return mask if window is None else mask & (key > row - window)


def _attend_one(q_1HC: Tensor, k_MJC: Tensor, v_MJC: Tensor, window: int | None) -> Tensor:
    """One query: the G heads of a key-value head become rows, so that keys are read in place and once."""
    if window is not None:
        k_MJC, v_MJC = k_MJC[-window:], v_MJC[-window:]
    q = q_1HC.view(1, k_MJC.shape[1], -1, q_1HC.shape[-1])
    k, v = (t.transpose(0, 1).unsqueeze(0) for t in (k_MJC, v_MJC))
    return F.scaled_dot_product_attention(q, k, v).view(q_1HC.shape)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension (Zhang and Sennrich 2019), rounded before the weight as transformers does."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return F.rms_norm(x.float(), (x.shape[-1],), None, eps).to(x.dtype) * weight


def _inverse_frequencies(spec: ModelSpec) -> Tensor:
    """Plain rope (Su et al. 2021, arXiv 2104.09864): float32 [C/2]."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    return 1.0 / spec.rope_theta**exponents


def _rotate(x_TNC: Tensor, rope: Rope) -> Tensor:
    """Turn each head; the first half of its elements pairs with the second, as in GPT-NeoX."""
    first, second = x_TNC.chunk(2, dim=-1)
    return x_TNC * rope.cos_T1C + torch.cat((-second, first), dim=-1) * rope.sin_T1C

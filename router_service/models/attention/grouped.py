"""Grouped-query attention over the paged cache, in the variants of the Llama-shaped families.

T tokens of the step, D hidden, H heads, J key-value heads, C head size.
"""

import torch
from torch import Tensor

from router_service.models.attention.attend import attend
from router_service.models.attention.rope import Rotation, rotate
from router_service.models.kv_cache import KVCache
from router_service.models.norm import rms_norm
from router_service.models.projections import Projections
from router_service.models.spec import GroupedAttention, Layer, ModelSpec, QueryKeyNorm, Temperature
from router_service.models.step_batch import StepBatch


class GroupedQueryAttention:
    """The attention of every layer; `attention` is `spec.attention`."""

    def __init__(self, spec: ModelSpec, attention: GroupedAttention, projections: Projections, cache: KVCache) -> None:
        self._spec = spec
        self._form = attention
        self._w = projections
        self._cache = cache
        self._turned = attention.heads + attention.kv_heads
        self._scale = attention.head_dim**-0.5
        heads = range(spec.layers) if attention.norm is QueryKeyNorm.HEAD else ()
        self._norms_NC = [self._norm_of_heads(layer) for layer in heads]

    def first_product(self, layer: int, h_TD: Tensor) -> Tensor:
        """The layer's first product: stacked queries, keys and values [T, (H + 2J) * C], before norms and rope."""
        return self._w.apply(f"{layer}.qkv", h_TD)

    def __call__(self, layer: int, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """Return out_TD for normalized rows; the step's keys and values are written to the cache."""
        what = self._spec.per_layer[layer]
        q_THC, k_TJC, v_TJC = self._queries_keys_values(layer, what, h_TD, by, batch)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[batch.slots_T] = k_TJC
        values[batch.slots_T] = v_TJC
        sinks_H = self._w.tensor(f"{layer}.sinks") if self._form.sinks else None
        out_THC = q_THC.new_empty(q_THC.shape)
        for part in batch.segments:
            rows = slice(part.start, part.start + part.length)
            out_THC[rows] = attend(q_THC[rows], keys[part.slots], values[part.slots], what, self._scale, sinks_H)
        return self._w.apply(f"{layer}.out", out_THC.flatten(1))

    def _queries_keys_values(
        self, layer: int, what: Layer, h_TD: Tensor, by: Rotation, batch: StepBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys are normalized and turned together: half as many calls."""
        stacked_TNC = self.first_product(layer, h_TD).view(len(h_TD), -1, self._form.head_dim)
        both_TNC, v_TJC = stacked_TNC[:, : self._turned], stacked_TNC[:, self._turned :]
        both_TNC = self._normed(layer, both_TNC)
        if (limit := self._form.clip) is not None:
            both_TNC, v_TJC = both_TNC.clamp(-limit, limit), v_TJC.clamp(-limit, limit)
        if what.rope:
            both_TNC = self._rotated(both_TNC, by)
        q_THC, k_TJC = both_TNC[:, : self._form.heads], both_TNC[:, self._form.heads :]
        if not what.rope and self._form.temperature is not None:
            q_THC = _tempered(q_THC, batch.positions_T, self._form.temperature)
        return q_THC, k_TJC, v_TJC

    def _normed(self, layer: int, both_TNC: Tensor) -> Tensor:
        if self._form.norm is QueryKeyNorm.HEAD:
            return rms_norm(both_TNC, None, self._spec.norm_eps) * self._norms_NC[layer]
        if self._form.norm is QueryKeyNorm.WHOLE:
            parts = torch.split(both_TNC, [self._form.heads, self._form.kv_heads], dim=1)
            return torch.cat([self._normed_whole(f"{layer}.{n}_norm", x) for n, x in zip("qk", parts)], dim=1)
        return both_TNC

    def _normed_whole(self, name: str, x_TNC: Tensor) -> Tensor:
        return rms_norm(x_TNC.flatten(1), self._w.tensor(name), self._spec.norm_eps).view(x_TNC.shape)

    def _rotated(self, x_TNC: Tensor, by: Rotation) -> Tensor:
        turned = rotate(x_TNC, by, self._spec.rope.interleaved)
        return rms_norm(turned, None, self._spec.norm_eps) if self._form.norm is QueryKeyNorm.L2_AFTER_ROPE else turned

    def _norm_of_heads(self, layer: int) -> Tensor:
        """The weight that each query and key head is multiplied by, [H + J, C]."""
        counts = {"q": self._form.heads, "k": self._form.kv_heads}
        return torch.cat([self._w.tensor(f"{layer}.{n}_norm").expand(count, -1) for n, count in counts.items()])


def _tempered(q_THC: Tensor, positions_T: Tensor, by: Temperature) -> Tensor:
    """Sharpen the attention of late positions (Nakanishi 2025, arXiv 2501.19399), as Llama 4 does without rope."""
    factor_T = torch.log1p(torch.floor((positions_T.float() + 1.0) / by.floor)) * by.scale + 1.0
    return (q_THC * factor_T[:, None, None]).to(q_THC.dtype)

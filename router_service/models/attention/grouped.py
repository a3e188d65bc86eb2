"""Grouped-query attention over the paged cache, in the variants of the Llama-shaped families.

T tokens of the step, B segments of one row, N rows of another, D hidden, H heads, J key-value heads, C head size.
"""

import torch
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows, PagedSegments
from kernels.ops import SegmentOps
from router_service.models.attention.attend import attend
from router_service.models.attention.layer import LayerParts, PagedAttention
from router_service.models.attention.rope import Rotation
from router_service.models.attention_forms import GroupedAttention, QueryKeyNorm, Temperature
from router_service.models.step_batch import StepBatch


class GroupedQueryAttention(PagedAttention):
    """A layer of `GroupedAttention`; its storage is two tensors, keys and values."""

    def __init__(self, form: GroupedAttention, parts: LayerParts) -> None:
        super().__init__(parts)
        self._form = form
        keys, values = parts.storage
        self._cache = LayerCache(keys, values, form.head_dim)
        self._turned = form.heads + form.kv_heads
        self._scale = form.head_dim**-0.5
        self._eps = parts.spec.norm_eps
        self._sinks_H = self._w.tensor(self._name("sinks")) if form.sinks else None
        # Stacked once, so that queries and keys are normalized by one call.
        self._norm_NC = self._norm_of_heads() if form.norm is QueryKeyNorm.HEAD else None
        # Where nothing is between norm and rope, one call does both.
        self._norm_and_turn = form.rope and form.clip is None

    def _attend_all(self, q_THC: Tensor, segments: PagedSegments, ops: SegmentOps) -> Tensor:
        return ops.attention(q_THC, self._cache, segments, self._scale, self._sinks_H)

    def _attend_single(self, q_BHC: Tensor, rows: PagedRows) -> Tensor:
        return self._parts.ops.paged_attention(q_BHC, self._cache, rows, self._scale, self._sinks_H)

    def _attend_several(self, q_NHC: Tensor, slots: slice | Tensor) -> Tensor:
        return attend(q_NHC, *self._cache.read(slots), self._form.view, self._scale, self._sinks_H)

    def _project(self, h_TD: Tensor, by: Rotation, batch: StepBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return queries, keys and values. Queries and keys are normalized and rotated together: half as many calls."""
        stacked_TNC = self.first_product(h_TD).view(h_TD.shape[0], -1, self._form.head_dim)
        both_TNC, v_TJC = stacked_TNC[:, : self._turned], stacked_TNC[:, self._turned :]
        both_TNC = self._normed(both_TNC)
        if (limit := self._form.clip) is not None:
            both_TNC, v_TJC = both_TNC.clamp(-limit, limit), v_TJC.clamp(-limit, limit)
        if self._form.rope:
            both_TNC = self._rotated(both_TNC, by)
        q_THC, k_TJC = both_TNC[:, : self._form.heads], both_TNC[:, self._form.heads :]
        if not self._form.rope and self._form.temperature is not None:
            q_THC = _tempered(q_THC, batch.positions_T, self._form.temperature)
        return q_THC, (k_TJC, v_TJC)

    def _normed(self, both_TNC: Tensor) -> Tensor:
        if self._norm_NC is not None and self._norm_and_turn:
            return both_TNC
        if self._norm_NC is not None:
            return self._normed_by_head(both_TNC) * self._norm_NC
        if self._form.norm is QueryKeyNorm.WHOLE:
            parts = torch.split(both_TNC, [self._form.heads, self._form.kv_heads], dim=1)
            return torch.cat([self._normed_whole(f"{n}_norm", x) for n, x in zip("qk", parts)], dim=1)
        return both_TNC

    def _normed_by_head(self, x_TNC: Tensor) -> Tensor:
        return self._elements.rms_norm(x_TNC.flatten(0, 1), None, self._eps).view(x_TNC.shape)

    def _normed_whole(self, name: str, x_TNC: Tensor) -> Tensor:
        return self._elements.rms_norm(x_TNC.flatten(1), self._w.tensor(self._name(name)), self._eps).view(x_TNC.shape)

    def _rotated(self, x_TNC: Tensor, by: Rotation) -> Tensor:
        weight_NC, interleaved = self._norm_NC if self._norm_and_turn else None, self._parts.spec.rope.interleaved
        turned = self._elements.turned_heads(x_TNC, weight_NC, self._eps, by.cos_T1C, by.sin_T1C, interleaved)
        return self._normed_by_head(turned) if self._form.norm is QueryKeyNorm.L2_AFTER_ROPE else turned

    def _norm_of_heads(self) -> Tensor:
        """The norm weights of all query and key heads, [H + J, C]."""
        counts = {"q": self._form.heads, "k": self._form.kv_heads}
        return torch.cat([self._w.tensor(self._name(f"{n}_norm")).expand(count, -1) for n, count in counts.items()])


def _tempered(q_THC: Tensor, positions_T: Tensor, by: Temperature) -> Tensor:
    """Sharpen the attention of late positions (Nakanishi 2025, arXiv 2501.19399), as Llama 4 does without rope."""
    # In float64, so that what the last few positions of a step get from another function rounds alike.
    turns_T = torch.floor((positions_T.float() + 1.0) / by.floor).double()
    factor_T = torch.log1p(turns_T).float() * by.scale + 1.0
    return (q_THC * factor_T[:, None, None]).to(q_THC.dtype)

"""Multi-head latent attention over a cache of latents (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Cached per token are its latent and its rope key, which all heads share. A single token's query is projected into the
latents' space ("absorbed"): keys and values are never materialized, and the latents are read once for all heads. A
prompt has many rows for its context, so there keys and values are projected from the latents, which costs less; but
where the backend takes all rows of a step together, prompts are absorbed too, so that their cut changes no bits.
T tokens of the step, B segments of one row, N rows of another, D hidden, H heads, R latent size, E rope size,
X = R + E, M positions of context, P elements of a head without a position, C = P + E query size, V value size,
U = P + V.
"""

import torch
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows, PagedSegments
from kernels.cpu.widening import plain_linear
from kernels.ops import SegmentOps
from router_service.models.attention.attend import attend
from router_service.models.attention.layer import LayerParts, PagedAttention
from router_service.models.attention.rope import Rotation
from router_service.models.attention_forms import LatentAttention
from router_service.models.step_batch import StepBatch

# The publisher's code uses this epsilon for the latents' norms, whatever the model's rms_norm_eps.
LATENT_NORM_EPS = 1e-6
# Of keys and values projected at a time: a long context with many heads would take gigabytes.
PROJECTED_BYTES = 64 << 20


class MultiHeadLatentAttention(PagedAttention):
    """A layer of `LatentAttention`; its storage is one tensor with each token's latent and rope key."""

    def __init__(self, form: LatentAttention, parts: LayerParts) -> None:
        super().__init__(parts)
        self._form = form
        self._cache = LayerCache(parts.storage[0], None, form.kv_rank)
        if (ops := parts.ops.segments) is not None:
            up_HUR = self._up_HUR
            self._absorbing_HRP = ops.prepare_heads(up_HUR[:, : form.nope_dim].transpose(1, 2))
            self._valuing_HVR = ops.prepare_heads(up_HUR[:, form.nope_dim :])
            # Twice in memory while the model is built, once for good.
            self._w.release(self._name("kv_b"))

    def _project(
        self,
        h_TD: Tensor,
        by: Rotation,
        batch: StepBatch,  # noqa: ARG002 (only others need positions)
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return queries, then latents and rope keys."""
        form = self._form
        q_TQ, latent_TR, rope_TE = torch.split(self.first_product(h_TD), self._widths, dim=-1)
        if form.query_rank is not None:
            normed_TQ = self._elements.rms_norm(q_TQ, self._w.tensor(self._name("q_a_norm")), LATENT_NORM_EPS)
            q_TQ = self._w.apply(self._name("q_b"), normed_TQ)
        q_THC = q_TQ.view(h_TD.shape[0], form.heads, form.query_dim)
        turned_THE = self._turned(q_THC[..., form.nope_dim :], by)
        latent_TR = self._elements.rms_norm(latent_TR, self._w.tensor(self._name("kv_a_norm")), LATENT_NORM_EPS)
        rope_T1E = self._turned(rope_TE.unsqueeze(1), by)
        latent_T1X = torch.cat((latent_TR.unsqueeze(1), rope_T1E), dim=-1)
        return torch.cat((q_THC[..., : form.nope_dim], turned_THE), dim=-1), (latent_T1X,)

    def _turned(self, x_TNE: Tensor, by: Rotation) -> Tensor:
        interleaved = self._parts.spec.rope.interleaved
        return self._elements.turned_heads(x_TNE, None, 0.0, by.cos_T1C, by.sin_T1C, interleaved)

    @property
    def _widths(self) -> list[int]:
        """Columns of the first product: queries or their latents, the keys' latents, the rope keys."""
        form = self._form
        return [form.query_rank or form.heads * form.query_dim, form.kv_rank, form.rope_dim]

    @property
    def _up_HUR(self) -> Tensor:
        """What makes each head's keys (P rows) and values from a latent."""
        return self._w.tensor(self._name("kv_b")).view(self._form.heads, -1, self._form.kv_rank)

    def _attend_all(self, q_THC: Tensor, segments: PagedSegments, ops: SegmentOps) -> Tensor:
        form, shape = self._form, q_THC.shape[:2]
        q_THX = q_THC.new_empty(*shape, form.cached)
        ops.linear_heads(q_THC[..., : form.nope_dim], self._absorbing_HRP, q_THX[..., : form.kv_rank])
        q_THX[..., form.kv_rank :] = q_THC[..., form.nope_dim :]
        mixed_THR = ops.attention(q_THX, self._cache, segments, form.scale)
        out_THV = q_THC.new_empty(*shape, form.value_dim)
        ops.linear_heads(mixed_THR, self._valuing_HVR, out_THV)
        return out_THV

    def _attend_single(self, q_BHC: Tensor, rows: PagedRows) -> Tensor:
        mixed_BHR = self._parts.ops.paged_attention(self._absorbed(q_BHC), self._cache, rows, self._form.scale)
        return self._values(mixed_BHR)

    def _attend_several(self, q_NHC: Tensor, slots: slice | Tensor) -> Tensor:
        cached_MX = self._cache.read(slots)[0].squeeze(1)
        if self._absorbing_costs_less(q_NHC.shape[0], cached_MX.shape[0]):
            return self._few_rows(q_NHC, cached_MX)
        return torch.cat([self._heads(q_NHC, cached_MX, part) for part in self._head_parts(len(cached_MX))], dim=1)

    def _absorbing_costs_less(self, rows: int, context: int) -> bool:
        """Whether a segment's rows take fewer products with the latents than with projected keys and values."""
        form = self._form
        projection = form.kv_rank * (form.nope_dim + form.value_dim)
        absorbed = rows * projection + rows * context * (form.cached + form.kv_rank)
        return absorbed < context * projection + rows * context * (form.query_dim + form.value_dim)

    def _few_rows(self, q_NHC: Tensor, cached_MX: Tensor) -> Tensor:
        """Rows of a chunk with a long context: all heads attend to the latents, as a single row does."""
        k_M1X, rank = cached_MX.unsqueeze(1), self._form.kv_rank
        mixed_NHX = attend(self._absorbed(q_NHC), k_M1X, k_M1X, self._form.view, self._form.scale)
        return self._values(mixed_NHX[..., :rank])

    def _absorbed(self, q_NHC: Tensor) -> Tensor:
        """Queries in the space of what is cached, q_NHX."""
        nope = self._form.nope_dim
        q_HNP, e_NHE = q_NHC[..., :nope].transpose(0, 1), q_NHC[..., nope:]
        return torch.cat((torch.bmm(q_HNP, self._up_HUR[:, :nope]).transpose(0, 1), e_NHE), dim=-1)

    def _values(self, mixed_NHR: Tensor) -> Tensor:
        """Values of a mix of latents, out_NHV."""
        values_HRV = self._up_HUR[:, self._form.nope_dim :].transpose(1, 2)
        return torch.bmm(mixed_NHR.transpose(0, 1), values_HRV).transpose(0, 1)

    def _head_parts(self, context: int) -> list[slice]:
        """Heads to take at a time, so that their keys and values of the context take no more than PROJECTED_BYTES."""
        form = self._form
        of_a_head = context * (form.query_dim + form.value_dim) * self._cache.keys_SJC.element_size()
        step = max(1, PROJECTED_BYTES // of_a_head)
        return [slice(first, first + step) for first in range(0, form.heads, step)]

    def _heads(self, q_NHC: Tensor, cached_MX: Tensor, part: slice) -> Tensor:
        """Attend with some of the heads: their keys and values are projected from the latents."""
        form, up_HUR = self._form, self._up_HUR[part]
        latent_MR, rope_ME = torch.split(cached_MX, [form.kv_rank, form.rope_dim], dim=-1)
        made_MHU = plain_linear(latent_MR, up_HUR.flatten(0, 1)).view(len(latent_MR), len(up_HUR), -1)
        k_MHP, v_MHV = torch.split(made_MHU, [form.nope_dim, form.value_dim], dim=-1)
        k_MHC = torch.cat((k_MHP, rope_ME.unsqueeze(1).expand(-1, len(up_HUR), -1)), dim=-1)
        return attend(q_NHC[:, part], k_MHC, v_MHV, form.view, form.scale)

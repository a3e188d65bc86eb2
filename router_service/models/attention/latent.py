"""Multi-head latent attention over a cache of latents (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Cached per token are its latent and its rope key, which all heads share. A single token's query is projected into the
latents' space ("absorbed"): keys and values are never materialized, and the latents are read once for all heads. A
prompt has many rows for its context, so there keys and values are projected from the latents, which costs less.
T tokens of the step, D hidden, H heads, R latent size, M positions of context, P elements of a head without a position,
C query and key size, V value size.
"""

import torch
from torch import Tensor

from kernels.cpu.widening import plain_linear
from router_service.models.attention.attend import attend
from router_service.models.attention.layer import LayerParts, PagedAttention
from router_service.models.attention.rope import Rotation, rotate
from router_service.models.attention_forms import LatentAttention
from router_service.models.norm import rms_norm
from router_service.models.step_batch import Segment, StepBatch

# The publisher's code uses this epsilon for the latents' norms, whatever the model's rms_norm_eps.
LATENT_NORM_EPS = 1e-6


class MultiHeadLatentAttention(PagedAttention):
    """A layer of `LatentAttention`; its storage is one tensor with each token's latent and rope key."""

    def __init__(self, form: LatentAttention, parts: LayerParts) -> None:
        super().__init__(parts)
        self._form = form

    def _attend(self, q_THC: Tensor, batch: StepBatch) -> Tensor:
        (cached,) = self._storage
        up_HUR = self._w.tensor(self._name("kv_b")).view(self._form.heads, -1, self._form.kv_rank)
        out_THV = q_THC.new_empty(*q_THC.shape[:2], self._form.value_dim)
        self._single_rows([s for s in batch.segments if s.length == 1], q_THC, up_HUR, out_THV)
        for part in batch.segments:
            if part.length > 1:
                rows = slice(part.start, part.start + part.length)
                out_THV[rows] = self._rows(q_THC[rows], cached[part.slots].squeeze(1), up_HUR)
        return out_THV

    def _project(
        self,
        h_TD: Tensor,
        by: Rotation,
        batch: StepBatch,  # noqa: ARG002 (only others need positions)
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return queries, then latents and rope keys."""
        form, interleaved = self._form, self._parts.spec.rope.interleaved
        q_TQ, latent_TR, rope_TE = torch.split(self.first_product(h_TD), self._widths, dim=-1)
        if form.query_rank is not None:
            normed_TQ = rms_norm(q_TQ, self._w.tensor(self._name("q_a_norm")), LATENT_NORM_EPS)
            q_TQ = self._w.apply(self._name("q_b"), normed_TQ)
        q_THC = q_TQ.view(len(h_TD), form.heads, form.query_dim)
        turned_THE = rotate(q_THC[..., form.nope_dim :], by, interleaved)
        latent_TR = rms_norm(latent_TR, self._w.tensor(self._name("kv_a_norm")), LATENT_NORM_EPS)
        rope_T1E = rotate(rope_TE.unsqueeze(1), by, interleaved)
        latent_T1X = torch.cat((latent_TR.unsqueeze(1), rope_T1E), dim=-1)
        return torch.cat((q_THC[..., : form.nope_dim], turned_THE), dim=-1), (latent_T1X,)

    @property
    def _widths(self) -> list[int]:
        """Columns of the first product: queries or their latents, the keys' latents, the rope keys."""
        form = self._form
        return [form.query_rank or form.heads * form.query_dim, form.kv_rank, form.rope_dim]

    def _single_rows(self, parts: list[Segment], q_THC: Tensor, up_HUR: Tensor, out_THV: Tensor) -> None:
        """Attend for sequences with one row: the keys are the latents, the values their first R elements."""
        if not parts:
            return
        form, (cached,) = self._form, self._storage
        rows = torch.tensor([part.start for part in parts], device=q_THC.device)
        q_BHC = q_THC[rows]
        q_HBP, e_BHE = q_BHC[..., : form.nope_dim].transpose(0, 1), q_BHC[..., form.nope_dim :]
        q_BHX = torch.cat((torch.bmm(q_HBP, up_HUR[:, : form.nope_dim]).transpose(0, 1), e_BHE), dim=-1)
        mixed_BHR = q_BHX.new_empty(len(parts), form.heads, form.kv_rank)
        for row, part in enumerate(parts):
            keys_M1X = cached[part.slots]
            mixed_BHR[row] = attend(q_BHX[row, None], keys_M1X, keys_M1X[..., : form.kv_rank], form.view, form.scale)[0]
        values_HRV = up_HUR[:, form.nope_dim :].transpose(1, 2)
        out_THV[rows] = torch.bmm(mixed_BHR.transpose(0, 1), values_HRV).transpose(0, 1)

    def _rows(self, q_NHC: Tensor, cached_MX: Tensor, up_HUR: Tensor) -> Tensor:
        """Attend for a prompt's rows: each head's keys and values are projected from the latents."""
        form = self._form
        latent_MR, rope_ME = torch.split(cached_MX, [form.kv_rank, form.rope_dim], dim=-1)
        made_MHU = plain_linear(latent_MR, up_HUR.flatten(0, 1)).view(len(latent_MR), form.heads, -1)
        k_MHP, v_MHV = torch.split(made_MHU, [form.nope_dim, form.value_dim], dim=-1)
        k_MHC = torch.cat((k_MHP, rope_ME.unsqueeze(1).expand(-1, form.heads, -1)), dim=-1)
        return attend(q_NHC, k_MHC, v_MHV, form.view, form.scale)

"""Multi-head latent attention over a cache of latents (DeepSeek-V2, arXiv 2405.04434, section 2.1).

What is cached of a token is its latent and its rope key, which all heads share. One token's query is taken into the
latents' space ("absorbed"): keys and values are never made, and the latents are read once for all heads. A prompt's
rows are many beside its context, so there keys and values are made from the latents, which costs less.
T tokens of the step, D hidden, H heads, R latent size, M positions of context, P elements of a head without a position,
C query and key size, V value size.
"""

import torch
from torch import Tensor

from kernels.cpu.widening import plain_linear
from router_service.models.attention.attend import attend
from router_service.models.attention.rope import Rotation, rotate
from router_service.models.kv_cache import KVCache
from router_service.models.norm import rms_norm
from router_service.models.projections import Projections
from router_service.models.spec import LatentAttention, ModelSpec
from router_service.models.step_batch import Segment, StepBatch

# The makers' code gives the latents' norms this epsilon, whatever the model's rms_norm_eps.
LATENT_NORM_EPS = 1e-6


class MultiHeadLatentAttention:
    """The attention of every layer; `attention` is `spec.attention`."""

    def __init__(self, spec: ModelSpec, attention: LatentAttention, projections: Projections, cache: KVCache) -> None:
        self._spec = spec
        self._form = attention
        self._w = projections
        self._cache = cache

    def first_product(self, layer: int, h_TD: Tensor) -> Tensor:
        """The layer's first product: queries, or their latents, then the keys' latents and the rope keys."""
        return self._w.apply(f"{layer}.qkv", h_TD)

    def __call__(self, layer: int, h_TD: Tensor, by: Rotation, batch: StepBatch) -> Tensor:
        """Return out_TD for normalized rows; the step's latents and rope keys are written to the cache."""
        q_THC, latent_TX = self._queries_latents(layer, h_TD, by)
        cached = self._cache.keys[layer]
        cached[batch.slots_T] = latent_TX.unsqueeze(1)
        up_HUR = self._w.tensor(f"{layer}.kv_b").view(self._form.heads, -1, self._form.kv_rank)
        out_THV = q_THC.new_empty(*q_THC.shape[:2], self._form.value_dim)
        self._single_rows(layer, [s for s in batch.segments if s.length == 1], q_THC, up_HUR, out_THV)
        for part in batch.segments:
            if part.length > 1:
                rows = slice(part.start, part.start + part.length)
                out_THV[rows] = self._rows(layer, q_THC[rows], cached[part.slots].squeeze(1), up_HUR)
        return self._w.apply(f"{layer}.out", out_THV.flatten(1))

    def _queries_latents(self, layer: int, h_TD: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        form = self._form
        width = form.query_rank or form.heads * form.query_dim
        first = self.first_product(layer, h_TD)
        q_TQ, latent_TR, rope_TE = torch.split(first, [width, form.kv_rank, form.rope_dim], dim=-1)
        if form.query_rank is not None:
            normed_TQ = rms_norm(q_TQ, self._w.tensor(f"{layer}.q_a_norm"), LATENT_NORM_EPS)
            q_TQ = self._w.apply(f"{layer}.q_b", normed_TQ)
        q_THC = q_TQ.view(len(h_TD), form.heads, form.query_dim)
        interleaved = self._spec.rope.interleaved
        turned_THE = rotate(q_THC[..., form.nope_dim :], by, interleaved)
        latent_TR = rms_norm(latent_TR, self._w.tensor(f"{layer}.kv_a_norm"), LATENT_NORM_EPS)
        rope_TE = rotate(rope_TE.unsqueeze(1), by, interleaved).squeeze(1)
        return torch.cat((q_THC[..., : form.nope_dim], turned_THE), dim=-1), torch.cat((latent_TR, rope_TE), dim=-1)

    def _single_rows(self, layer: int, parts: list[Segment], q_THC: Tensor, up_HUR: Tensor, out_THV: Tensor) -> None:
        """Rows that are alone in their sequence's step: keys are latents, values their first R elements."""
        if not parts:
            return
        form, cached = self._form, self._cache.keys[layer]
        rows = torch.tensor([part.start for part in parts], device=q_THC.device)
        q_BHC = q_THC[rows]
        q_HBP, e_BHE = q_BHC[..., : form.nope_dim].transpose(0, 1), q_BHC[..., form.nope_dim :]
        q_BHX = torch.cat((torch.bmm(q_HBP, up_HUR[:, : form.nope_dim]).transpose(0, 1), e_BHE), dim=-1)
        mixed_BHR = q_BHX.new_empty(len(parts), form.heads, form.kv_rank)
        for row, part in enumerate(parts):
            keys_M1X, what = cached[part.slots], self._spec.per_layer[layer]
            mixed_BHR[row] = attend(q_BHX[row, None], keys_M1X, keys_M1X[..., : form.kv_rank], what, form.scale)[0]
        values_HRV = up_HUR[:, form.nope_dim :].transpose(1, 2)
        out_THV[rows] = torch.bmm(mixed_BHR.transpose(0, 1), values_HRV).transpose(0, 1)

    def _rows(self, layer: int, q_NHC: Tensor, cached_MX: Tensor, up_HUR: Tensor) -> Tensor:
        """A prompt's rows: each head's keys and values are made from the latents."""
        form = self._form
        latent_MR, rope_ME = torch.split(cached_MX, [form.kv_rank, form.rope_dim], dim=-1)
        made_MHU = plain_linear(latent_MR, up_HUR.flatten(0, 1)).view(len(latent_MR), form.heads, -1)
        k_MHP, v_MHV = torch.split(made_MHU, [form.nope_dim, form.value_dim], dim=-1)
        k_MHC = torch.cat((k_MHP, rope_ME.unsqueeze(1).expand(-1, form.heads, -1)), dim=-1)
        return attend(q_NHC, k_MHC, v_MHV, self._spec.per_layer[layer], form.scale)

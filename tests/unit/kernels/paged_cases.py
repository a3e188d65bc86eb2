"""Rows over a paged cache for the tests of every backend, and attention by its definition in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows, Slots

CPU = torch.device("cpu")
BLOCK = 4
# Of the largest result, for values of size 1: a few roundings.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4 * 2**-7, torch.float16: 4 * 2**-10}


@dataclass(frozen=True)
class Case:
    """Rows over a cache in which everything that no row reads is NaN.

    `key` and `value` are sizes of a head; with latents there is one key-value head, and values are a part of the keys.
    """

    lengths: list[int]
    heads: int
    kv_heads: int
    dtype: torch.dtype
    latent: bool = False
    scattered: bool = True
    key: int = 8
    value: int = 8
    device: torch.device = CPU

    @cached_property
    def slots(self) -> list[Slots]:
        """A row may begin within a block, as at the edge of a window."""
        blocks = [-(-length // BLOCK) + 1 for length in self.lengths]
        ids = np.arange(sum(blocks))
        ids = np.random.default_rng(sum(self.lengths)).permutation(ids) if self.scattered else ids
        return [
            (table[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[1 : 1 + length]
            for table, length in zip(np.split(ids, np.cumsum(blocks)[:-1]), self.lengths, strict=True)
        ]

    @cached_property
    def cache(self) -> LayerCache:
        draw = torch.Generator().manual_seed(0)
        keys = self._stored(self.key, draw)
        return LayerCache(keys, None if self.latent else self._stored(self.value, draw), self.value)

    @cached_property
    def q_BHC(self) -> Tensor:
        drawn = torch.randn(len(self.lengths), self.heads, self.key, generator=torch.Generator().manual_seed(1))
        return drawn.to(self.device, self.dtype)

    def _stored(self, size: int, draw: torch.Generator) -> Tensor:
        slots = sum(-(-length // BLOCK) + 1 for length in self.lengths) * BLOCK
        read = torch.zeros(slots, dtype=torch.bool)
        read[torch.from_numpy(np.concatenate(self.slots))] = True
        drawn_SJC = torch.randn(slots, self.kv_heads, size, generator=draw)
        return drawn_SJC.masked_fill_(~read[:, None, None], float("nan")).to(self.device, self.dtype)

    def rows(self, chosen: list[int] | None = None) -> PagedRows:
        return PagedRows(self.slots if chosen is None else [self.slots[row] for row in chosen], self.device)

    def by_definition(self, scale: float, sinks_H: Tensor | None) -> Tensor:
        return torch.stack([
            row_by_definition(q, *self.cache.read(torch.from_numpy(own).to(self.device)), scale, sinks_H)
            for q, own in zip(self.q_BHC, self.slots, strict=True)
        ])  # fmt: skip


def of_form(form: str, lengths: list[int], heads: tuple[int, int], dtype: torch.dtype, scattered: bool = True) -> Case:
    """A small case on the CPU of a form: latent, else with keys and values."""
    if form == "latent":
        return Case(lengths, heads[0], 1, dtype, latent=True, scattered=scattered, key=12)
    return Case(lengths, *heads, dtype, scattered=scattered)


def row_by_definition(q_HC: Tensor, k_MJC: Tensor, v_MJV: Tensor, scale: float, sinks_H: Tensor | None) -> Tensor:
    shared = len(q_HC) // k_MJC.shape[1]
    k, v = (t.double().repeat_interleave(shared, dim=1) for t in (k_MJC, v_MJV))
    shares_HM = torch.einsum("hc,mhc->hm", q_HC.double() * scale, k).exp()
    total_H = shares_HM.sum(-1) + (0.0 if sinks_H is None else sinks_H.double().exp())
    return torch.einsum("hm,mhv->hv", shares_HM / total_H[:, None], v)

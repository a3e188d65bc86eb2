"""Keys and values of all sequences, in pages: block b holds the slots b*block_size up to (b+1)*block_size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from router_service.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class KVCache:
    """`keys` and `values` [L, slots, kv_heads, head_dim], in the model's dtype on its device."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, spec: ModelSpec, slots: int, dtype: torch.dtype, device: torch.device) -> "KVCache":
        """Reserve room for `slots` tokens. On a CPU the pages become resident only as they are written."""
        shape = (spec.layers, slots, spec.kv_heads, spec.head_dim)
        keys, values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self.keys.nbytes + self.values.nbytes

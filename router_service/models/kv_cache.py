"""Keys and values of all sequences, in pages: block b holds the slots b*block_size up to (b+1)*block_size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from router_service.models.spec import LatentAttention, ModelSpec


@dataclass(frozen=True, slots=True)
class KVCache:
    """`keys` [L, slots, J, C] and `values` of the same shape, in the model's dtype on its device.

    Latent attention keeps one "head" of the latent and the rope key in `keys`, and its `values` are a view of those.
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, spec: ModelSpec, slots: int, dtype: torch.dtype, device: torch.device) -> "KVCache":
        """Reserve room for `slots` tokens. On a CPU the pages become resident only as they are written."""
        form = spec.attention
        if isinstance(form, LatentAttention):
            keys = torch.empty((spec.layers, slots, 1, form.cached), dtype=dtype, device=device)
            return cls(keys, keys[..., : form.kv_rank])
        shape = (spec.layers, slots, form.kv_heads, form.head_dim)
        keys, values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        shared = self.keys.untyped_storage().data_ptr() == self.values.untyped_storage().data_ptr()
        return self.keys.nbytes + (0 if shared else self.values.nbytes)

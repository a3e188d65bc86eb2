"""Memory for intermediate results that a thread reuses.

For a block of a MiB or more malloc may map new pages each time, which takes longer than all
work on it: 64 quantized experts of [768, 1024] and [1024, 384] took 144 ms on two threads, and 40 with memory kept.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class Buffers(threading.local):
    """One growing piece of host memory for each purpose, for each thread."""

    def __init__(self) -> None:
        self._bytes: dict[str, Tensor] = {}

    def take(self, purpose: str, elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A vector without contents, good until this thread's next call for the same purpose.

        On another device than the CPU it is fresh: there torch keeps memory itself.
        """
        if device.type != "cpu":
            return torch.empty(elements, dtype=dtype, device=device)
        size = elements * dtype.itemsize
        kept = self._bytes.get(purpose)
        if kept is None or kept.shape[0] < size:
            # A tensor made in inference mode could not be written outside it.
            with torch.inference_mode(False):
                kept = self._bytes[purpose] = torch.empty(size, dtype=torch.uint8)
        return kept[:size].view(dtype)


BUFFERS = Buffers()

"""Memory for intermediate results that a thread reuses.

For a block of a MiB or more malloc may map new pages each time, which takes longer than all
work on it: 64 quantized experts of [768, 1024] and [1024, 384] took 144 ms on two threads, and 40 with memory kept.
"""

from __future__ import annotations

import threading
from math import prod

import torch
from torch import Tensor

# Shapes that are remembered for each purpose and thread; beyond it all are forgotten.
MOST_SHAPES = 64


class Buffers(threading.local):
    """One growing piece of host memory for each purpose, for each thread."""

    def __init__(self) -> None:
        self._bytes: dict[str, Tensor] = {}
        self._shaped: dict[str, dict[tuple[tuple[int, ...], torch.dtype], Tensor]] = {}

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
            self._shaped.pop(purpose, None)  # they would keep the old memory
        return kept[:size].view(dtype)

    def shaped(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """As `take`, in this shape. For shapes that come again and again: the tensor is made once, then remembered."""
        if device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        known = self._shaped.get(purpose, {}).get((shape, dtype))
        return self._remembered(purpose, shape, dtype, device) if known is None else known

    def _remembered(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        with torch.inference_mode(False):  # as in `take`
            made = self.take(purpose, prod(shape), dtype, device).view(shape)
        shapes = self._shaped.setdefault(purpose, {})
        if len(shapes) >= MOST_SHAPES:
            shapes.clear()
        shapes[shape, dtype] = made
        return made


BUFFERS = Buffers()

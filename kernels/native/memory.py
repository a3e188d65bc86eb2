"""Memory for what kernels read as a whole each step: pieces of large mappings, on huge pages where the system has them.

A product of few rows jumps from expert to expert. On pages of 4 KiB it then waits for the page table: experts in
bfloat16 were read at 24 GB/s so and at 31 on pages of 2 MiB, in 4 bits at 13 and 17 (Zen 5, one thread, shared).
"""

from __future__ import annotations

import contextlib
import mmap
import threading

import torch
from torch import Tensor

LINE, HUGE_PAGE = 64, 2 << 20
# What is mapped at a time; what is never written takes no memory.
CHUNK = 64 << 20


class Arena:
    """Zeroed bytes one behind the other; a chunk goes when the last piece of it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = torch.empty(0, dtype=torch.uint8)

    def zeros(self, count: int) -> Tensor:
        """So many bytes (uint8), from a cache line on."""
        size = -(-count // LINE) * LINE
        with self._lock:
            if size > len(self._free):
                self._free = _mapped(max(size, CHUNK))
            piece, self._free = self._free[:count], self._free[size:]
        return piece

    def copy(self, tensor: Tensor) -> Tensor:
        """The same, contiguous, in this memory."""
        flat = tensor.contiguous().view(-1)
        piece = self.zeros(flat.nbytes).view(flat.dtype)
        return piece.copy_(flat).view(tensor.shape)


def _mapped(size: int) -> Tensor:
    """At least so many zeroed bytes from a huge page on. torch keeps the mapping as long as it is used."""
    # Private: of shared memory, which is the default, there are no huge pages in most systems.
    mapping = mmap.mmap(-1, -(-size // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    return whole[-whole.data_ptr() % HUGE_PAGE :]


ARENA = Arena()

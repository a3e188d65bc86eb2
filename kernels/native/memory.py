"""Memory for what kernels read as a whole each step: pieces of large mappings, on huge pages where the system has them.

A product of few rows jumps from expert to expert. On pages of 4 KiB it then waits for the page table: experts in
bfloat16 were read at 24 GB/s so and at 31 on pages of 2 MiB, in 4 bits at 13 and 17 (Zen 5, one thread, shared).

Experts come and go one by one, so a piece that nobody uses any more is free for the next ones, and whole huge pages of
free memory go back to the system at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
import weakref
from collections import deque

import torch
from torch import Tensor

from kernels.native.free_ranges import FreeRanges, Range

LINE, HUGE_PAGE = 64, 2 << 20
# What is mapped at a time; what is never written takes no memory.
CHUNK = 64 << 20


class Chunk:
    """A mapping from a huge page on, of `size` bytes, of which `used` have ever been handed out, from the front."""

    def __init__(self, size: int) -> None:
        # Private: of shared memory, which is the default, there are no huge pages in most systems.
        self._map = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._advise("MADV_HUGEPAGE", 0, len(self._map))
        self._first = -ctypes.addressof(ctypes.c_char.from_buffer(self._map)) % HUGE_PAGE
        self.size = size
        self.used = 0

    def piece(self, start: int, size: int) -> tuple[ctypes.Array[ctypes.c_char], int]:
        """A buffer of these bytes, which keeps the mapping as long as it lives, and how many of them to zero.

        Those behind are as the system gave them.
        """
        before, self.used = self.used, max(self.used, start + size)
        return (ctypes.c_char * size).from_buffer(self._map, self._first + start), max(0, min(size, before - start))

    def give_back(self, start: int, end: int) -> None:
        """Let the system have the whole huge pages among these bytes, which nobody uses; they read as zeros then."""
        first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
        if first < last:
            self._advise("MADV_DONTNEED", self._first + first, last - first)

    def _advise(self, advice: str, start: int, length: int) -> None:
        if hasattr(mmap, advice):
            with contextlib.suppress(OSError):  # a kernel without it
                self._map.madvise(getattr(mmap, advice), start, length)


class Arena:
    """Zeroed bytes; those of a tensor are free when the last view of it has gone. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = FreeRanges[Chunk]()
        # Tensors go in any thread and at any moment, even while this one holds the lock.
        self._gone = deque[tuple[Chunk, int, int]]()

    def zeros(self, count: int) -> Tensor:
        """So many bytes (uint8), from a cache line on."""
        size = max(LINE, -(-count // LINE) * LINE)
        with self._lock:
            self._collect()
            found = self._free.take(size) or self._added(size)
            piece, soiled = found.owner.piece(found.start, size)
        weakref.finalize(piece, self._let_go, found.owner, found.start, found.end).atexit = False
        if soiled:
            ctypes.memset(piece, 0, soiled)
        return torch.frombuffer(piece, dtype=torch.uint8)[:count]

    def copy(self, tensor: Tensor) -> Tensor:
        """The same, contiguous, in this memory."""
        flat = tensor.contiguous().view(-1)
        piece = self.zeros(flat.nbytes).view(flat.dtype)
        return piece.copy_(flat).view(tensor.shape)

    def _added(self, size: int) -> Range[Chunk]:
        """The first bytes of a new chunk, whose others are free."""
        chunk = Chunk(-(-max(size, CHUNK) // HUGE_PAGE) * HUGE_PAGE)
        self._free.add(chunk, size, chunk.size)
        return Range(chunk, 0, size)

    def _let_go(self, chunk: Chunk, start: int, end: int) -> None:
        self._gone.append((chunk, start, end))
        while self._gone and self._lock.acquire(blocking=False):  # who has the lock collects, now or next time
            try:
                self._collect()
            finally:
                self._lock.release()

    def _collect(self) -> None:
        """Free what has gone. A chunk that is all free is forgotten: its mapping goes with it."""
        while self._gone:
            chunk, start, end = self._gone.popleft()
            free = self._free.add(chunk, start, end)
            if (free.start, free.end) == (0, chunk.size):
                self._free.remove(free)
            else:
                chunk.give_back(free.start, free.end)


ARENA = Arena()

"""Allocates the blocks of the paged KV cache to sequences. Plain data: no tensors, no clock.

Blocks are allocated contiguously if a long enough run is free, because a contiguous context is read in place instead of
gathered. A block is counted by reference: it is free again when its last owner has released it.
"""

from array import array


class BlockManager:
    """`total` blocks of `block_size` tokens each."""

    def __init__(self, total: int, block_size: int) -> None:
        if total < 1 or block_size < 1:
            raise ValueError(f"a KV cache needs at least one block of one token, not {total} of {block_size}")
        self.total = total
        self.block_size = block_size
        self.clear()

    @property
    def used(self) -> int:
        """Blocks that are allocated."""
        return self.total - self._free

    def blocks_for(self, tokens: int) -> int:
        """How many blocks `tokens` tokens need."""
        return -(-tokens // self.block_size)

    def allocate(self, tokens: int) -> list[int] | None:
        """Return blocks for `tokens` tokens, contiguous if possible; None if too few are free."""
        count = self.blocks_for(tokens)
        if count > self._free:
            return None
        blocks = self._find(count)
        for block in blocks:
            self._references[block] = self._owned[block] = 1
        self._free -= count
        return blocks

    def share(self, blocks: list[int]) -> None:
        """Add a reference to each block, to be released separately.

        Raises:
            ValueError: a block is free; no reference is added then.
        """
        for block in blocks:
            if not self._references[block]:
                raise ValueError(f"block {block} is to be shared but nobody owns it")
        for block in blocks:
            self._references[block] += 1

    def release(self, blocks: list[int]) -> None:
        """Drop a reference to each block.

        Raises:
            ValueError: a block is free: releasing it twice would allocate it to two sequences.
        """
        for block in blocks:
            if not self._references[block]:
                raise ValueError(f"block {block} is released but nobody owns it")
            self._references[block] -= 1
            if not self._references[block]:
                self._owned[block] = 0
                self._free += 1

    def clear(self) -> None:
        """Free every block."""
        self._references = array("q", bytes(8 * self.total))
        # One byte per block, 1 if it is allocated: `bytearray.find` searches it for free runs at the speed of C.
        self._owned = bytearray(self.total)
        self._free = self.total

    def _find(self, count: int) -> list[int]:
        start = self._owned.find(bytes(count))
        if start >= 0:
            return list(range(start, start + count))
        return [block for block, owned in enumerate(self._owned) if not owned][:count]

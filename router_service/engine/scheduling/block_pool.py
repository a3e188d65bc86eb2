"""The blocks of one cache group: who owns them, and what is known to be written in them.

Plain data: no tensors, no clock. A block is counted by reference. Once its last owner has released it, a block whose
content is known stays as it is until another one is needed and no blank one is left; then the block that has been idle
longest is taken. Blocks are taken contiguously where possible, because a contiguous context is read in place instead of
gathered; for the same reason the blocks behind a growing sequence are the last to be taken by others.
"""

from array import array
from collections.abc import Iterable

# A block's state. `bytearray.find` searches them for runs at the speed of C.
BLANK, TAKEN, AHEAD = 0, 1, 2


class BlockPool:
    """`total` blocks. `blocks` finds those whose content is known, by the content's digest."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"a KV cache needs at least one block, not {total}")
        self.total = total
        self.clear()

    def clear(self) -> None:
        """Free every block, and forget what is written in it."""
        self._references = array("q", bytes(8 * self.total))
        self._states = bytearray(self.total)
        self._digests: dict[int, bytes] = {}
        self.blocks: dict[bytes, int] = {}
        # Without an owner but with known content, the longest idle first.
        self._idle: dict[int, None] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """Blocks that have an owner."""
        return self._used

    @property
    def free(self) -> int:
        """Blocks that can be taken: blank and idle ones."""
        return self.total - self._used

    def owners(self, block: int) -> int:
        """How many sequences own the block."""
        return self._references[block]

    def take(self, count: int, after: int | None = None, growth: int = 0) -> list[int]:
        """Return `count` blocks that are the caller's, if possible those behind the block `after`.

        Args:
            growth: how many more the sequence may need; they are kept free for it while others find blocks elsewhere.

        Raises:
            ValueError: fewer are free.
        """
        if count > self.free:
            raise ValueError(f"{count} blocks are to be taken, {self.free} are free")
        self._make_blank(count)
        blocks = self._behind(after, count) if after is not None else None
        blocks = blocks or self._run(count, growth) or self._anywhere(count)
        for block in blocks:
            self._states[block], self._references[block] = TAKEN, 1
        self._used += count
        return blocks

    def share(self, block: int) -> None:
        """Add an owner to a block that has one, or whose content is known.

        Raises:
            ValueError: the block is blank.
        """
        if not self._references[block]:
            if block not in self._idle:
                raise ValueError(f"block {block} is to be shared but nothing is known of it")
            del self._idle[block]
            self._used += 1
        self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Drop an owner of each block. Of those that become idle, the first is the first to be taken again.

        Raises:
            ValueError: a block has no owner: releasing it twice would give it to two sequences.
        """
        for block in blocks:
            if not self._references[block]:
                raise ValueError(f"block {block} is released but nobody owns it")
            self._references[block] -= 1
            if not self._references[block]:
                self._used -= 1
                self._let_go(block)

    def publish(self, block: int, digest: bytes) -> None:
        """Note an owned block's content. If another block has the same, that one is found."""
        if digest not in self.blocks and block not in self._digests:
            self.blocks[digest], self._digests[block] = block, digest

    def forget(self, block: int) -> None:
        """Let the block's content be found no more."""
        if (digest := self._digests.pop(block, None)) is not None:
            del self.blocks[digest]
        if block in self._idle:
            del self._idle[block]
            self._states[block] = BLANK

    def _let_go(self, block: int) -> None:
        if block in self._digests:
            self._idle[block] = None
        else:
            self._states[block] = BLANK
        # What was kept free for its sequence is anybody's.
        behind = block + 1
        while behind < self.total and self._states[behind] == AHEAD:
            self._states[behind] = BLANK
            behind += 1

    def _make_blank(self, count: int) -> None:
        """Forget idle blocks, the longest idle first, until `count` are blank."""
        blank = self.total - self._used - len(self._idle)
        while blank < count:
            self.forget(next(iter(self._idle)))
            blank += 1

    def _behind(self, after: int, count: int) -> list[int] | None:
        blocks = range(after + 1, after + 1 + count)
        if blocks.stop > self.total or any(self._states[block] == TAKEN for block in blocks):
            return None
        return list(blocks)

    def _run(self, count: int, growth: int) -> list[int] | None:
        """A run of blank blocks, with room to grow if there is one."""
        while (start := self._states.find(bytes(count + growth))) < 0:
            if not growth:
                return None
            growth //= 2
        self._states[start + count : start + count + growth] = bytes([AHEAD]) * growth
        return list(range(start, start + count))

    def _anywhere(self, count: int) -> list[int]:
        """Blank blocks first, then those that are kept free for others."""
        blank = [block for block, state in enumerate(self._states) if state == BLANK]
        if len(blank) < count:
            blank += [block for block, state in enumerate(self._states) if state == AHEAD]
        return sorted(blank[:count])

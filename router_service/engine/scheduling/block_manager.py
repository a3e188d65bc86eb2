"""Gives sequences blocks of the paged KV cache, group by group, and finds beginnings that are in it already.

Layers fall into groups by what they have to remember (`router_service.models.cache_groups`). Each group has blocks of
its own, and each sequence a block table per group: entry i is the block of tokens `i * block_size` up to
`(i + 1) * block_size`, or `GIVEN_BACK` if no token to come attends to it. A later group that holds one state per
sequence instead of a row per token would be another kind of pool beside `BlockPool` here.

Plain data: no tensors, no clock.
"""

import sys
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from router_service.engine.scheduling import block_hashes
from router_service.engine.scheduling.block_pool import BlockPool
from router_service.engine.scheduling.sequence import GIVEN_BACK, Sequence
from router_service.models.view import WHOLE_CONTEXT, View

# Blocks behind a growing sequence that are kept free for it as long as others find blocks elsewhere.
GROWTH_TOKENS = 512


@dataclass(frozen=True, slots=True)
class GroupSize:
    """A cache group's number of blocks, and what its layers' tokens attend to."""

    blocks: int
    view: View = WHOLE_CONTEXT


class BlockManager:
    """The blocks of all groups, `block_size` tokens each.

    Without `prefix_caching` no block's content is noted, so nothing is found and a released block is blank.
    """

    def __init__(self, groups: Seq[GroupSize], block_size: int, prefix_caching: bool = True) -> None:
        if block_size < 1:
            raise ValueError(f"a KV block needs at least one token, not {block_size}")
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.views = tuple(group.view for group in groups)
        self.pools = tuple(BlockPool(group.blocks) for group in groups)

    @property
    def used(self) -> int:
        """Blocks that have an owner, in all groups."""
        return sum(pool.used for pool in self.pools)

    @property
    def fullest(self) -> BlockPool:
        """The pool with the largest share of owned blocks: it is the first to run out."""
        return max(self.pools, key=lambda pool: pool.used / pool.total)

    @property
    def capacity(self) -> int:
        """Tokens that a sequence may have if it is alone."""
        return min(self._capacity(pool, view) for pool, view in zip(self.pools, self.views, strict=True))

    @property
    def cached_tokens(self) -> int:
        """The most tokens that can be found in the cache: what the smallest group with the whole context holds."""
        if not self.prefix_caching:
            return 0
        whole = [p.total for p, view in zip(self.pools, self.views, strict=True) if view.remembers is None]
        return min(whole or [pool.total for pool in self.pools]) * self.block_size

    def peak(self, group: int, tokens: int) -> int:
        """Blocks of a group that a sequence of `tokens` tokens owns between two steps."""
        remembers = self.views[group].remembers
        every = self._blocks_for(tokens)
        return every if remembers is None else min(every, self._blocks_for(remembers) + 1)

    def find(self, sequence: Sequence) -> int:
        """Return how many of the sequence's first blocks are in the cache, as far as it may use them.

        The last token is always computed: its logits are needed.
        """
        if not self.prefix_caching:
            return 0
        most = len(sequence.tokens) - 1
        if sequence.reusable is not None:
            most = min(most, sequence.reusable)
        blocks = most // self.block_size
        block_hashes.extend(sequence.digests, sequence.tokens, self.block_size, sequence.salt, blocks)
        runs = [_runs(pool, sequence.digests[:blocks]) for pool in self.pools]
        while blocks and not self._usable(blocks, runs):
            blocks -= 1
        return blocks

    def has_room(self, sequence: Sequence, found: int, promised: Seq[int]) -> bool:
        """Whether all tokens of the sequence would fit into what is free.

        Args:
            found: how many blocks of its beginning are in the cache.
            promised: free blocks of each group that others will need.
        """
        return all(
            self.peak(group, len(sequence.tokens) + 1) - self._owned(group, sequence, found) + promised[group]
            <= pool.free
            for group, pool in enumerate(self.pools)
        )

    def outstanding(self, sequence: Sequence) -> list[int]:
        """Blocks of each group that a running sequence still needs for its tokens, and at least one to grow."""
        peaks = [self.peak(group, len(sequence.tokens) + 1) for group in range(len(self.pools))]
        return [max(1, peak - len(table)) for peak, table in zip(peaks, sequence.tables, strict=True)]

    def fits(self, sequence: Sequence, tokens: int) -> int:
        """How many of the sequence's next `tokens` tokens have blocks, or can have some that are free now."""
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            tokens = min(tokens, (len(table) + pool.free) * self.block_size - sequence.computed)
        return max(0, tokens)

    def adopt(self, sequence: Sequence, found: int) -> None:
        """Start the sequence's tables with the first `found` blocks, which are in the cache."""
        sequence.computed = found * self.block_size
        sequence.tables = tuple([GIVEN_BACK] * self._first_block(view, sequence.computed) for view in self.views)
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            for digest in sequence.digests[len(table) : found]:
                block = pool.blocks[digest]
                pool.share(block)
                table.append(block)

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Cover the next `tokens` tokens, as many as `fits` allows."""
        covered = self._blocks_for(sequence.computed + tokens)
        growth = min(sequence.max_length - sequence.computed - tokens, GROWTH_TOKENS) // self.block_size
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            if (missing := covered - len(table)) > 0:
                after = table[-1] if table and table[-1] != GIVEN_BACK else None
                table += pool.take(missing, after, max(0, growth))

    def advance(self, sequence: Sequence, tokens: int) -> None:
        """Note that the next `tokens` tokens are in the cache now.

        Blocks that are full from now on can be found by others, up to the first that is tainted. What no token to come
        attends to is given back.
        """
        first, sequence.computed = sequence.computed // self.block_size, sequence.computed + tokens
        if self.prefix_caching:
            clean = sequence.computed if sequence.tainted is None else min(sequence.computed, sequence.tainted)
            self._publish(sequence, first, clean // self.block_size)
        for pool, view, table in zip(self.pools, self.views, sequence.tables, strict=True):
            self._give_back(pool, table, self._first_block(view, sequence.computed))

    def forget(self, sequence: Sequence) -> None:
        """Let the content of the sequence's blocks be found no more."""
        for pool, table in zip(self.pools, sequence.tables, strict=False):
            for block in table:
                if block != GIVEN_BACK:
                    pool.forget(block)

    def unshared(self, tables: Seq[list[int]]) -> list[list[int]]:
        """The blocks of tables that no other sequence owns."""
        return [
            [block for block in table if block != GIVEN_BACK and pool.owners(block) == 1]
            for pool, table in zip(self.pools, tables, strict=True)
        ]

    def release(self, sequence: Sequence) -> None:
        """Release all blocks of the sequence; the last ones are the first to be taken again."""
        for pool, table in zip(self.pools, sequence.tables, strict=False):
            pool.release(block for block in reversed(table) if block != GIVEN_BACK)
        sequence.tables = ()
        sequence.computed = 0
        sequence.tainted = None

    def clear(self) -> None:
        """Free every block."""
        for pool in self.pools:
            pool.clear()

    def _publish(self, sequence: Sequence, first: int, full: int) -> None:
        """Let the blocks from `first` up to `full`, which is not included, be found."""
        block_hashes.extend(sequence.digests, sequence.tokens, self.block_size, sequence.salt, full)
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            for number in range(first, full):
                pool.publish(table[number], sequence.digests[number])

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _first_block(self, view: View, position: int) -> int:
        """The first block that the token at `position` attends to."""
        return view.first_seen(position) // self.block_size

    def _capacity(self, pool: BlockPool, view: View) -> int:
        """Tokens of a sequence that is alone: any number if the pool holds what is remembered and a block more."""
        if view.remembers is not None and pool.total >= self._blocks_for(view.remembers) + 2:
            return sys.maxsize
        return pool.total * self.block_size

    def _usable(self, blocks: int, runs: list[list[int]]) -> bool:
        """Whether each group has all of the first `blocks` blocks that the token behind them attends to."""
        return all(
            run[blocks - 1] >= blocks - self._first_block(view, blocks * self.block_size)
            for run, view in zip(runs, self.views, strict=True)
        )

    def _owned(self, group: int, sequence: Sequence, found: int) -> int:
        """Of the blocks that were found, those that have an owner: to share them takes nothing from what is free."""
        pool, first = self.pools[group], self._first_block(self.views[group], found * self.block_size)
        return sum(pool.owners(pool.blocks[digest]) > 0 for digest in sequence.digests[first:found])

    def _give_back(self, pool: BlockPool, table: list[int], needed: int) -> None:
        """Release the blocks before the first that is `needed`."""
        number = needed - 1
        while number >= 0 and table[number] != GIVEN_BACK:
            pool.release((table[number],))
            table[number] = GIVEN_BACK
            number -= 1


def _runs(pool: BlockPool, digests: Seq[bytes]) -> list[int]:
    """For each block, how many up to and with it are in the cache without a gap."""
    runs, length = [], 0
    for digest in digests:
        length = length + 1 if digest in pool.blocks else 0
        runs.append(length)
    return runs

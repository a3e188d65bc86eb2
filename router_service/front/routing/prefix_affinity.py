"""Guesses which router has the beginning of a prompt in its prefix cache, and weighs that against its load.

All costs are in tokens to compute. No clock, no sockets.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Container

from router_service.front.routing.prefix_chain import BLOCK_TOKENS, PrefixChain

# Hashes that are kept for a router whose cache is larger: 4 million tokens, about 10 MB.
MAX_BLOCKS = 65536


class PrefixMemory:
    """The blocks that one router has probably cached: the latest `capacity` ones that went through it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def remember(self, prefix: PrefixChain) -> None:
        """Note that the router computes `prefix`."""
        # From the end: of a prefix that is forgotten in part, the beginning is what remains of use.
        for digest in reversed(prefix.digests):
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def matched(self, prefix: PrefixChain) -> int:
        """Return how many tokens of its beginning are known, in whole blocks."""
        known = next((n for n, digest in enumerate(prefix.digests) if digest not in self._blocks), len(prefix.digests))
        return known * BLOCK_TOKENS


class PrefixAffinity:
    """The memories of all routers, by the incarnation of their process: one that was restarted has an empty cache."""

    def __init__(self) -> None:
        self._memories: dict[int, PrefixMemory] = {}

    def __len__(self) -> int:
        return len(self._memories)

    def remember(self, router: int, prefix: PrefixChain, cache_tokens: int) -> None:
        """Note that the router `router`, whose prefix cache holds `cache_tokens` tokens, computes `prefix`."""
        if cache_tokens < BLOCK_TOKENS:
            return
        if router not in self._memories:
            self._memories[router] = PrefixMemory(min(MAX_BLOCKS, cache_tokens // BLOCK_TOKENS))
        self._memories[router].remember(prefix)

    def saved(self, router: int, prefix: PrefixChain) -> int:
        """Return how many tokens of `prefix` the router `router` need not compute."""
        memory = self._memories.get(router)
        return 0 if memory is None else memory.matched(prefix)

    def rank(self, router: int, prefix: PrefixChain, backlog: int) -> tuple[int, bytes]:
        """Return by what routers are compared; the least is best. `backlog` is what the router has still to compute.

        Work ahead of the request less what the router saves it: so the router with the longest match is taken unless it
        is busier than another by more than the saving. Ties are broken by rendezvous hashing (Thaler and Ravishankar
        1998) of the first block: all Fronts choose the same router for it, and when a router comes or goes, only the
        prefixes that it wins or had move.
        """
        return backlog - self.saved(router, prefix), rendezvous(router, prefix.first)

    def keep(self, routers: Container[int]) -> None:
        """Forget all routers but these."""
        self._memories = {router: memory for router, memory in self._memories.items() if router in routers}


def rendezvous(router: int, key: bytes) -> bytes:
    """Return the router's rank for a key; of several routers the one with the least is chosen."""
    return hashlib.blake2b(key + router.to_bytes(8, "little"), digest_size=8).digest()

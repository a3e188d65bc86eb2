"""Chained hashes of the blocks of a sequence of tokens: equal hashes mean equal beginnings."""

import hashlib
from array import array
from collections.abc import Sequence

# Coarser than a router's blocks, since these only guess what a router has; the remainder of a prompt is little work.
BLOCK_TOKENS = 64
# By chance two of a million blocks have the same hash with a probability below 1e-7. That costs speed, not correctness.
DIGEST_BYTES = 8


class PrefixChain:
    """The hashes of all whole blocks so far. `salt` keeps apart what may not share a prefix cache.

    Each hash covers the salt and all tokens up to the end of its block. Tokens are below 2^63.
    """

    def __init__(self, salt: bytes = b"", tokens: Sequence[int] = ()) -> None:
        self.digests: list[bytes] = []
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES, salt=salt[: hashlib.blake2b.SALT_SIZE])
        self._rest = array("q")
        self.extend(tokens)

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.digests) * BLOCK_TOKENS + len(self._rest)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens: O(blocks), whatever came before."""
        self._rest.extend(tokens)
        whole = len(self._rest) // BLOCK_TOKENS * BLOCK_TOKENS
        raw = memoryview(self._rest)
        for start in range(0, whole, BLOCK_TOKENS):
            self._hash.update(raw[start : start + BLOCK_TOKENS])
            self.digests.append(self._hash.digest())
        raw.release()
        del self._rest[:whole]

    @property
    def first(self) -> bytes:
        """The hash of the first block, or of all tokens if they make none."""
        if self.digests:
            return self.digests[0]
        whole = self._hash.copy()
        whole.update(self._rest)
        return whole.digest()

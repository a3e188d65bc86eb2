"""Chained hashes of a sequence's blocks: equal hashes mean equal tokens from the start, and the same salt.

The chain (hash of the parent, the block's tokens) is that of vLLM's automatic prefix caching. The hash is
cryptographic, so that nobody can make tokens whose block is taken for another's.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

DIGEST_BYTES = 16


def root(salt: bytes) -> bytes:
    """The parent of a sequence's first block."""
    return blake2b(salt, digest_size=DIGEST_BYTES, person=b"salt").digest()


def extend(digests: list[bytes], tokens: Sequence[int], block_size: int, salt: bytes, blocks: int) -> None:
    """Append the missing digests, so that there is one for each of the first `blocks` blocks."""
    for number in range(len(digests), blocks):
        parent = digests[-1] if digests else root(salt)
        ids = np.array(tokens[number * block_size : (number + 1) * block_size], dtype="<i8")
        digests.append(blake2b(parent + ids.tobytes(), digest_size=DIGEST_BYTES).digest())

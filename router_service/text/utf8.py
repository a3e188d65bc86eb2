"""The text of tokens' bytes."""

import codecs
from collections.abc import Sequence

# Tokens that are joined and decoded by one call, during which no other thread runs: about a millisecond.
PIECE_TOKENS = 1 << 14


def text_of_bytes(tokens: Sequence[bytes]) -> str:
    """Return the text of all bytes together, what is not UTF-8 as U+FFFD; the same as if they were decoded at once."""
    if len(tokens) <= PIECE_TOKENS:
        return b"".join(tokens).decode("utf-8", errors="replace")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    starts = range(0, len(tokens), PIECE_TOKENS)
    texts = [decoder.decode(b"".join(tokens[start : start + PIECE_TOKENS])) for start in starts]
    return "".join([*texts, decoder.decode(b"", final=True)])

"""The text of tokens' bytes."""

import codecs
from collections.abc import Sequence

# Bytes that are decoded by one call, during which no other thread runs: about a millisecond.
PIECE_BYTES = 1 << 16


def text_of_bytes(tokens: Sequence[bytes]) -> str:
    """Return the text of all bytes together, what is not UTF-8 as U+FFFD; the same as if they were decoded at once."""
    raw = b"".join(tokens)
    if len(raw) <= PIECE_BYTES:
        return raw.decode("utf-8", errors="replace")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = [decoder.decode(raw[start : start + PIECE_BYTES]) for start in range(0, len(raw), PIECE_BYTES)]
    return "".join([*texts, decoder.decode(b"", final=True)])

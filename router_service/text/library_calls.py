"""Calls of the `tokenizers` library that let other threads run meanwhile.

Only those of batches release the interpreter: a single `encode` or `decode` holds it to the end, on whichever thread.
"""

import os
from collections.abc import Sequence

from tokenizers import Tokenizer

# Shorter ones take less than some milliseconds, and to release the interpreter costs more than it brings.
LONG_CHARACTERS = 8192
LONG_TOKENS = 2048
# A batch has one text here, for which the library would start a thread for each core.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def ids_of(tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Return the ids of `text`; if `add_special_tokens`, with those that the post-processor adds."""
    if len(text) <= LONG_CHARACTERS:
        found: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    else:
        # The fast one does without the tokens' places in the text.
        found = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
    return found


def text_of(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool) -> str:
    """Return the text of `ids`; unknown ids are skipped."""
    if len(ids) <= LONG_TOKENS:
        return tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    return tokenizer.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0]

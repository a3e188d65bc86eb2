"""A tokenizer from a checkpoint's tekken.json, by the `tiktoken` library."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from experts.checkpoint.errors import CheckpointError
from router_service.text.around import Around, AroundIds, read_around
from router_service.text.special_text import controls_of
from router_service.text.tekken.file import TekkenFile, read_tekken
from router_service.text.tiktoken.format import TiktokenFormat
from router_service.text.tiktoken.pieces import Cutter
from router_service.text.tokenizer import Tokenizer
from router_service.text.utf8 import text_of_bytes

# Before raw prompts, as the publisher's own software encodes them.
BOS = "<s>"


class TekkenTokenizer(Tokenizer):
    """Special tokens, and ranked tokens behind them."""

    def __init__(self, file: TekkenFile, around: Around) -> None:
        self._special = {content: id for id, content in enumerate(file.special)}
        self._ranks = file.ranks
        self.special_ids = frozenset(self._special.values())
        # The decoder joins the bytes of all tokens, so byte tokens need no special treatment.
        self.byte_fallback: Mapping[int, int] = {}
        self._bytes = [*(content.encode() for content in file.special), *file.ranks]
        self.longest = max(map(len, self._bytes))
        self.controls = controls_of({content: (id, True) for content, id in self._special.items()})
        first, last = (None if token is None else self._special.get(token) for token in (around.first, around.last))
        self._around = AroundIds(first, last)
        self._cutter = Cutter(TiktokenFormat(file.pattern, reserved=0), file.special)
        # The library wants special tokens behind the ranks.
        behind = {content: len(file.ranks) + id for content, id in self._special.items()}
        self._encoding = tiktoken.Encoding(
            "checkpoint", pat_str=file.pattern, mergeable_ranks=file.ranks, special_tokens=behind
        )

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`. Lone surrogates, which no text has, are encoded as U+FFFD."""
        ids = self._encoded(text, self._special.keys())
        return self._around.put(ids) if add_special_tokens else ids

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:
        """Return the ids of texts, in which no control token is recognized, and of control tokens between them."""
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else self._encoded(part, ())
        return self._around.put(ids) if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; their bytes are joined first, as a character's may come from several tokens."""
        least = len(self._special) if skip_special_tokens else 0
        table, size = self._bytes, len(self._bytes)
        return text_of_bytes([table[id] for id in ids if least <= id < size])

    def is_visible(self, id: int) -> bool:
        """Return whether `id` is a token that has text."""
        return len(self._special) <= id < len(self._bytes)

    def id_of(self, token: str) -> int | None:
        """Return the id of a special token by its content, else of the token with the bytes of `token`."""
        if token in self._special:
            return self._special[token]
        rank = self._ranks.get(token.encode("utf-8", errors="surrogatepass"))
        return None if rank is None else len(self._special) + rank

    def bytes_of(self, id: int) -> bytes:
        """Return a token's bytes; a special one's are its content."""
        return self._bytes[id] if 0 <= id < len(self._bytes) else b""

    def _encoded(self, text: str, recognized: Collection[str]) -> list[int]:
        ids: list[int] = []
        for piece in self._cutter.pieces(text):
            found_N = self._encoding.encode_to_numpy(piece, allowed_special=set(recognized), disallowed_special=())
            # From the library's order, the ranks first, to the file's.
            moved_N = (found_N.astype(np.int64) + len(self._special)) % len(self._bytes)
            ids += moved_N.tolist()
        return ids


def load_tekken_tokenizer(path: Path) -> TekkenTokenizer:
    """Read the vocabulary at `path`, with tokenizer_config.json beside it if there is one.

    Raises:
        CheckpointError: a file is invalid.
    """
    file, around = read_tekken(path), read_around(path.parent, BOS)
    try:
        return TekkenTokenizer(file, around)
    except ValueError as error:
        problem = f"is no regular expression that the library takes: {error}; fetch the file again"
        raise CheckpointError(f"{path}: config.pattern {problem}") from error

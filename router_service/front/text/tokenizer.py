"""What the Front asks of a checkpoint's tokenizer, whichever file it comes from."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back. Safe to call from several threads."""

    special_ids: frozenset[int]
    # Tokens that stand for one byte which the decoder joins only with other such tokens: id to byte.
    byte_fallback: Mapping[int, int]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`, with what the tokenizer puts around a prompt if `add_special_tokens`.

        The text of a special token in `text` becomes its id either way.
        """

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; ids that the tokenizer does not know have none."""

    def is_visible(self, id: int) -> bool:
        """Return whether `id` can have text: not a special token, nor a row of the embedding that pads it."""

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its exact content, None if there is no such token."""

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes that a token stands for; none for an id that the tokenizer does not know."""

    def text_of(self, id: int) -> str:
        """Return one token's text on its own, special tokens included."""
        return self.bytes_of(id).decode("utf-8", errors="replace")

"""The interface of tokenizers, whichever file they are loaded from."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Converts text to token ids and back. Safe to call from several threads."""

    special_ids: frozenset[int]
    # Tokens that stand for one byte and that the decoder joins only with each other: id to byte.
    byte_fallback: Mapping[int, int]
    # Bytes of the longest token, by which a text can be too long whatever its tokens are.
    longest: int
    # What structures a conversation, by its text: the special tokens, and others in bars such as <|user|>.
    controls: Mapping[str, int]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`; if `add_special_tokens`, with those that the tokenizer puts around a prompt.

        The text of a special token in `text` becomes its id in either case.
        """

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:
        """Return the ids of texts and tokens, one behind the other; in the texts none of `controls` is recognized.

        Each text is encoded as it would be at its place in the whole.
        """

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; unknown ids are skipped."""

    def is_visible(self, id: int) -> bool:
        """Return whether `id` can have text: neither a special token nor a padding row of the embedding."""

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its exact content, None if there is no such token."""

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes of a token, b"" for an unknown id."""

    def text_of(self, id: int) -> str:
        """Return one token's text on its own, special tokens included."""
        return self.bytes_of(id).decode("utf-8", errors="replace")

"""A tokenizer from a checkpoint's tokenizer.json, by the `tokenizers` library."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import read_bytes
from router_service.text.plain_encoder import PlainEncoder
from router_service.text.special_text import controls_of
from router_service.text.tokenizer import Tokenizer

# The largest published ones have 35 MB, and the library uses up to 22 times a file's size in memory.
MAX_TOKENIZER_BYTES = 128 << 20


class JsonTokenizer(Tokenizer):
    """A tokenizer loaded from a tokenizer.json."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        # A file may contain the truncation and padding used in training; a server must not alter its input.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        decoder_kinds = _kinds_of(json.loads(tokenizer.to_str()).get("decoder"))
        self.special_ids = frozenset(id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        self._added_ids = frozenset(tokenizer.get_added_tokens_decoder())
        self._byte_level = "ByteLevel" in decoder_kinds
        self.longest = max((len(token.encode()) for token in tokenizer.get_vocab()), default=0)
        self.controls = controls_of(
            {token.content: (id, token.special) for id, token in tokenizer.get_added_tokens_decoder().items()}
        )
        self._plain = PlainEncoder(tokenizer, self.controls)
        self.byte_fallback = _byte_tokens(tokenizer) if "ByteFallback" in decoder_kinds else {}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`; if `add_special_tokens`, with those that the post-processor adds."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:
        """Return the ids of texts, in which no control token is recognized, and of control tokens between them."""
        return self._plain.encode(parts, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; unknown ids are skipped."""
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def is_visible(self, id: int) -> bool:
        """Return whether `id` can have text: neither a special token nor a padding row of the embedding."""
        return id not in self.special_ids and self._tokenizer.id_to_token(id) is not None

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its exact content, None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes of a token, b"" for an unknown id."""
        token = self._tokenizer.id_to_token(id)
        if token is None:
            return b""
        if id in self.byte_fallback:
            return bytes([self.byte_fallback[id]])
        if id in self._added_ids:
            return token.encode()
        if self._byte_level and all(character in byte_alphabet() for character in token):
            return bytes(byte_alphabet()[character] for character in token)
        return token.replace("▁", " ").encode()


def load_json_tokenizer(path: Path) -> JsonTokenizer:
    """Read the tokenizer.json at `path`.

    Raises:
        CheckpointError: the file is not a tokenizer, or too large.
    """
    try:
        # Not by its name: the library would wait for a pipe, and read whatever has no end.
        return JsonTokenizer(HuggingFaceTokenizer.from_buffer(read_bytes(path, MAX_TOKENIZER_BYTES)))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises a bare Exception
        raise CheckpointError(f"{path}: {error}") from error


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, are U+0100 and up.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def _kinds_of(decoder: dict[str, object] | None) -> set[object]:
    """Return the types of a decoder's JSON and of those nested in it."""
    if decoder is None:
        return set()
    nested = decoder.get("decoders", [])
    assert isinstance(nested, list)
    return {decoder.get("type")}.union(*(_kinds_of(part) for part in nested))


def _byte_tokens(tokenizer: HuggingFaceTokenizer) -> dict[int, int]:
    names = ((byte, tokenizer.token_to_id(f"<0x{byte:02X}>")) for byte in range(256))
    return {id: byte for byte, id in names if id is not None}

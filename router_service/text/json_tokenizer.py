"""A tokenizer from a checkpoint's tokenizer.json, by the `tokenizers` library."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import read_bytes
from router_service.text.around import NOTHING, Around, missing_around, read_around
from router_service.text.library_calls import ids_of, text_of
from router_service.text.plain_encoder import PlainEncoder
from router_service.text.special_text import controls_of
from router_service.text.tokenizer import Tokenizer

# The largest published ones have 35 MB, and the library uses up to 22 times a file's size in memory.
MAX_TOKENIZER_BYTES = 128 << 20
# A token before another one: any text without a space.
BEFORE = "a"


class JsonTokenizer(Tokenizer):
    """A tokenizer loaded from a tokenizer.json."""

    def __init__(self, tokenizer: HuggingFaceTokenizer, around: Around = NOTHING) -> None:
        """`around` is what tokenizer_config.json wants around a prompt; see `missing_around`."""
        # A file may contain the truncation and padding used in training; a server must not alter its input.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._around = missing_around(tokenizer, around)
        decoder_kinds = _kinds_of(json.loads(tokenizer.to_str()).get("decoder"))
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._byte_level = "ByteLevel" in decoder_kinds
        # Added tokens that the decoder takes for bytes: of `<|café|>` it makes an é that is no UTF-8.
        self._literal = {id: token.content for id, token in added.items() if self._is_misread(token.content)}
        self.longest = max((len(token.encode()) for token in tokenizer.get_vocab()), default=0)
        self.controls = controls_of({token.content: (id, token.special) for id, token in added.items()})
        self._plain = PlainEncoder(tokenizer, self.controls)
        self.byte_fallback = _byte_tokens(tokenizer) if "ByteFallback" in decoder_kinds else {}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`; if `add_special_tokens`, with those that the post-processor adds."""
        ids = ids_of(self._tokenizer, text, add_special_tokens)
        return self._around.put(ids) if add_special_tokens else ids

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:
        """Return the ids of texts, in which no control token is recognized, and of control tokens between them."""
        ids = self._plain.encode(parts, add_special_tokens)
        return self._around.put(ids) if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; unknown ids are skipped."""
        if self._literal and not self._literal.keys().isdisjoint(ids):
            return "".join(self._decoded_apart(ids, skip_special_tokens))
        return text_of(self._tokenizer, ids, skip_special_tokens)

    def _decoded_apart(self, ids: Sequence[int], skip_special_tokens: bool) -> Iterator[str]:
        """Yield the text before, of and behind each token that the decoder misreads. No character spans one of them."""
        start = 0
        for at, id in enumerate(ids):
            if id not in self._literal or (skip_special_tokens and id in self.special_ids):
                continue
            yield text_of(self._tokenizer, ids[start:at], skip_special_tokens)
            yield self._literal[id]
            start = at + 1
        yield text_of(self._tokenizer, ids[start:], skip_special_tokens)

    def is_visible(self, id: int) -> bool:
        """Return whether `id` can have text: neither a special token nor a padding row of the embedding."""
        return id not in self.special_ids and self._tokenizer.id_to_token(id) is not None

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its exact content, None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes of a token, as the decoder has them behind another one; b"" for an unknown id."""
        token = self._tokenizer.id_to_token(id)
        if token is None:
            return b""
        if id in self._literal:
            return self._literal[id].encode()
        if id in self.byte_fallback:
            return bytes([self.byte_fallback[id]])
        return self._bytes_in_order(token) if self._byte_level else self._text_behind(token).encode()

    @staticmethod
    def _bytes_in_order(token: str) -> bytes:
        alphabet = byte_alphabet()
        if all(character in alphabet for character in token):
            return bytes(alphabet[character] for character in token)
        return token.encode()

    def _text_behind(self, token: str) -> str:
        """Return the text that `token` adds: decoders change what a text begins with, so another one precedes."""
        decoder = self._tokenizer.decoder
        if decoder is None:  # the library puts spaces between tokens
            return f" {token}"
        whole: str = decoder.decode([BEFORE, token])
        return whole.removeprefix(decoder.decode([BEFORE]))

    def _is_misread(self, content: str) -> bool:
        return self._byte_level and self._bytes_in_order(content) != content.encode()


def load_json_tokenizer(path: Path) -> JsonTokenizer:
    """Read the tokenizer.json at `path`.

    Raises:
        CheckpointError: the file is not a tokenizer, or too large; or tokenizer_config.json beside it is invalid.
    """
    around = read_around(path.parent)
    try:
        # Not by its name: the library would wait for a pipe, and read whatever has no end.
        return JsonTokenizer(HuggingFaceTokenizer.from_buffer(read_bytes(path, MAX_TOKENIZER_BYTES)), around)
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

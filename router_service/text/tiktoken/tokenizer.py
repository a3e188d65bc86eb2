"""A tokenizer from a checkpoint's tiktoken vocabulary file, by the `tiktoken` library."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import tiktoken

from router_service.text.special_text import controls_of
from router_service.text.tiktoken.format import TiktokenFormat, format_of
from router_service.text.tiktoken.pieces import Cutter
from router_service.text.tiktoken.ranks import read_ranks
from router_service.text.tiktoken.reserved import ReservedToken, read_reserved
from router_service.text.tokenizer import Tokenizer
from router_service.text.utf8 import text_of_bytes


class TiktokenTokenizer(Tokenizer):
    """A tokenizer of ranked tokens and the reserved ids that follow them."""

    def __init__(
        self, ranks: Mapping[bytes, int], reserved: Mapping[int, ReservedToken], format: TiktokenFormat
    ) -> None:
        """`ranks` are 0 to N - 1, and `reserved` has the `format.reserved` ids from N on, in order."""
        assert list(reserved) == list(range(len(ranks), len(ranks) + format.reserved))
        self.special_ids = frozenset(id for id, token in reserved.items() if token.special)
        # The decoder joins the bytes of all tokens, so byte tokens need no special treatment.
        self.byte_fallback: Mapping[int, int] = {}
        self._reserved = {token.content: id for id, token in reserved.items()}
        self._contents = frozenset(self._reserved)
        self._ranks = dict(ranks)
        self._bytes = [*sorted(ranks, key=ranks.__getitem__), *(name.encode() for name in self._reserved)]
        self.longest = max(map(len, self._bytes))
        self.controls = controls_of({token.content: (id, token.special) for id, token in reserved.items()})
        self._cutter = Cutter(format, list(self._reserved))
        self._encoding = tiktoken.Encoding(
            "checkpoint", pat_str=format.pattern, mergeable_ranks=self._ranks, special_tokens=self._reserved
        )

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:  # noqa: ARG002 (the format adds none)
        """Return the ids of `text`. Lone surrogates, which no text has, are encoded as U+FFFD."""
        return self._encoded(text, self._contents)

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:  # noqa: ARG002
        """Return the ids of texts, in which no control token is recognized, and of control tokens between them."""
        others = self._contents - self.controls.keys()
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else self._encoded(part, others)
        return ids

    def _encoded(self, text: str, recognized: AbstractSet[str]) -> list[int]:
        ids: list[int] = []
        for piece in self._cutter.pieces(text):
            ids += self._encoding.encode(piece, allowed_special=recognized, disallowed_special=())
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; their bytes are joined first, as a character's may come from several tokens."""
        hidden = self.special_ids if skip_special_tokens else frozenset[int]()
        return text_of_bytes([self.bytes_of(id) for id in ids if id not in hidden])

    def is_visible(self, id: int) -> bool:
        """Return whether `id` is a token that has text."""
        return 0 <= id < len(self._bytes) and id not in self.special_ids

    def id_of(self, token: str) -> int | None:
        """Return the id of a reserved token by its content, else of the token with the bytes of `token`."""
        return self._reserved.get(token, self._ranks.get(token.encode("utf-8", errors="surrogatepass")))

    def bytes_of(self, id: int) -> bytes:
        """Return a token's bytes; a reserved one's are its content."""
        return self._bytes[id] if 0 <= id < len(self._bytes) else b""


def load_tiktoken_tokenizer(path: Path) -> TiktokenTokenizer:
    """Read the vocabulary at `path`, with config.json and tokenizer_config.json beside it.

    Raises:
        CheckpointError: a file is invalid, or it is not known how the model splits text.
    """
    format = format_of(path)
    ranks = read_ranks(path)
    reserved = read_reserved(path.parent, range(len(ranks), len(ranks) + format.reserved))
    return TiktokenTokenizer(ranks, reserved, format)

"""A model's vocabulary in the form of llguidance: the bytes of each token, and which tokens are special or end.

A model's vocabulary may be larger than its tokenizer's: ids without a token are never allowed.
"""

from collections.abc import Collection, Sequence

from router_service.text.tokenizer import Tokenizer

# llguidance marks special tokens by this byte, which no text in UTF-8 has.
MARKER = b"\xff"
# What stands behind a vocabulary without end-of-sequence tokens: llguidance needs one.
END = MARKER + b"<end>"


def token_bytes(tokenizer: Tokenizer, size: int) -> list[bytes]:
    """Return the bytes of tokens 0 to `size` - 1, b"" for ids without a token and those that no text can have."""
    found = (tokenizer.bytes_of(id) for id in range(size))
    return [b"" if data.startswith(MARKER) else data for data in found]


class TokenSource:
    """What llguidance asks of a tokenizer; `vocabulary` is what it makes of it.

    Args:
        tokens: the bytes of each token.
        special: ids that are no text.
        ends: end-of-sequence ids; one behind the vocabulary is made up if there is none.
        tokenizer: cuts text that a grammar forces as the model was trained to read it; without it, and where it does
            not keep the bytes, the longest tokens are taken.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Collection[int],
        ends: Collection[int],
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.ends = sorted(id for id in ends if id < len(tokens)) or [len(tokens)]
        self.tokens = [*tokens, END] if self.ends == [len(tokens)] else list(tokens)
        self.eos_token_id = self.ends[0]
        self.special_token_ids = sorted({id for id in special if id < len(tokens)} | set(self.ends))
        self._special = frozenset(self.special_token_ids)
        self._tokenizer = tokenizer
        # Typed for llguidance's own wrapper; it asks for no more than this class has.
        from llguidance import LLTokenizer

        self.vocabulary = LLTokenizer(self, eos_token=self.ends)  # type: ignore[arg-type]

    def __call__(self, text: str) -> list[int]:
        """Return ids that together have exactly the bytes of `text`, none of them special."""
        if self._tokenizer is not None:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            if self._special.isdisjoint(ids) and b"".join(self.tokens[id] for id in ids) == text.encode():
                return ids
        return self.vocabulary.greedy_tokenize(text)


def source_of(tokenizer: Tokenizer, size: int, ends: Collection[int]) -> TokenSource:
    """Return the source of a model with `size` tokens and these end-of-sequence ids."""
    return TokenSource(token_bytes(tokenizer, size), tokenizer.special_ids, ends, tokenizer)

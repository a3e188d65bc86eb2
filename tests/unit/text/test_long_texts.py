"""Texts that are far too long are found out by a part of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.long_texts import has_more_tokens
from router_service.text.utf8 import PIECE_TOKENS, text_of_bytes
from tests.unit.front.front_fakes import byte_fallback_tokenizer, byte_level_tokenizer
from tests.unit.text.tiktoken_fakes import kimi_tokenizer


class Counting(JsonTokenizer):
    """Notes how long the texts are that it encodes."""

    def __init__(self) -> None:
        super().__init__(byte_level_tokenizer())
        self.lengths: list[int] = []

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        self.lengths.append(len(text))
        return super().encode(text, add_special_tokens)


TOKENIZERS = {
    "byte-level": JsonTokenizer(byte_level_tokenizer()),
    "byte-fallback": JsonTokenizer(byte_fallback_tokenizer()),
    "tiktoken": kimi_tokenizer(),
}
WORDS = st.sampled_from(["hello", " world", "the ", "aaaa", "    ", "你好", "1234", "\n\n", "é", "<|im_end|>"])


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(words=st.lists(WORDS, min_size=1), times=st.integers(1, 400), spare=st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_a_text_that_fits_is_never_said_to_be_longer(kind: str, words: list[str], times: int, spare: int) -> None:
    tokenizer = TOKENIZERS[kind]
    text = "".join(words) * times
    tokens = len(tokenizer.encode(text, add_special_tokens=False))
    assert not has_more_tokens(text, tokens + spare, tokenizer)


def test_one_that_is_far_too_long_is_not_encoded() -> None:
    tokenizer = Counting()
    assert has_more_tokens("x y z " * 500_000, 199, tokenizer)
    assert tokenizer.lengths == [(199 + 24 + 64) * 8]


def test_what_is_encoded_is_bounded_by_the_text() -> None:
    tokenizer = Counting()
    word = "hello" * 20_000  # few tokens for its length
    assert not has_more_tokens(word, 50_000, tokenizer)
    assert not has_more_tokens(" hello" * 4_000, 2_900, tokenizer)
    assert sum(tokenizer.lengths) <= len(word)


@given(tokens=st.lists(st.binary(max_size=9)), at=st.integers(1, 12))
@settings(deadline=None)
def test_the_text_of_many_bytes_is_that_of_all_at_once(tokens: list[bytes], at: int) -> None:
    cut = "é你😀".encode()  # characters across the places where the library is called anew
    long = [*tokens, *([b"x"] * (PIECE_TOKENS - at - len(tokens))), *(bytes([byte]) for byte in cut * 4), *tokens]
    assert len(long) > PIECE_TOKENS
    assert text_of_bytes(long) == b"".join(long).decode(errors="replace")
    assert text_of_bytes(tokens) == b"".join(tokens).decode(errors="replace")


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(words=st.lists(WORDS, min_size=1, max_size=20))
@settings(deadline=None, max_examples=20)
def test_a_long_text_has_the_ids_and_the_text_of_its_parts(kind: str, words: list[str]) -> None:
    """Long ones go through other calls of the libraries, which let other threads run."""
    tokenizer = TOKENIZERS[kind]
    line = "".join(words) + "<|im_start|>"
    start = tokenizer.id_of("<|im_start|>")
    times = 20_000 // len(line)
    if start is None:
        return
    assert tokenizer.encode(line * times, False) == tokenizer.encode(line, False) * times
    marked = [*words, start] * times
    assert tokenizer.encode_parts(marked) == tokenizer.encode_parts([*words, start]) * times
    ids = tokenizer.encode(line * times, False)
    assert tokenizer.decode(ids) == tokenizer.decode(ids[: len(ids) // times]) * times

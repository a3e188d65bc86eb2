"""llguidance's view of a vocabulary has exactly the tokens' bytes, for every kind of tokenizer."""

import numpy as np
import pytest
from llguidance import LLMatcher

from router_service.structured.vocabulary import TokenSource, source_of, token_bytes
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.tokenizer import Tokenizer
from tests.support.structured import bundled_tokenizer
from tests.unit.front.front_fakes import byte_fallback_tokenizer, byte_level_tokenizer, metaspace_tokenizer
from tests.unit.text.tiktoken_fakes import kimi_tokenizer

TOKENIZERS: dict[str, Tokenizer] = {
    "bundled": bundled_tokenizer(),
    "byte-level": JsonTokenizer(byte_level_tokenizer()),
    "byte-fallback": JsonTokenizer(byte_fallback_tokenizer()),
    "metaspace": JsonTokenizer(metaspace_tokenizer()),
    "tiktoken": kimi_tokenizer(),
}
# Beyond the tokens that any of them has.
SIZE = 3100
# None forces a text, so that more than one way to write it is allowed.
REGEXES = (r"(?s:.*)", "[ a-h]{1,3}", "[hé]?[a-z ]*", r"\s?[0-9]+|[^a-z]")


def allowed(matcher: LLMatcher, size: int) -> set[int]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return set(np.flatnonzero(bits[:size]).tolist())


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("regex", REGEXES)
def test_masks_are_exact(name: str, regex: str) -> None:
    """A mask has just the tokens that can be taken in; neither special ones nor ids without a token."""
    tokenizer = TOKENIZERS[name]
    source = source_of(tokenizer, SIZE, [])
    matcher = LLMatcher(source.vocabulary, LLMatcher.grammar_from_regex(regex), log_level=0)
    tokens = token_bytes(tokenizer, SIZE)
    texts = [id for id in range(SIZE) if tokens[id] and id not in tokenizer.special_ids]
    assert allowed(matcher, SIZE) == {id for id in texts if matcher.validate_tokens([id]) == 1}
    assert not matcher.is_error()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_are_those_of_the_tokenizer(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    source = source_of(tokenizer, SIZE, [])
    texts = [id for id in range(SIZE) if source.tokens[id] and id not in source.special_token_ids]
    assert [source.vocabulary.decode_bytes([id]) for id in texts] == [tokenizer.bytes_of(id) for id in texts]
    assert len(texts) > 5


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "metaspace"])
@pytest.mark.parametrize("text", ["hello world", '{"name": "é"}', "<|im_end|>", "[BOS]", " a  b\n", "日本🙂"])
def test_forced_text_is_cut_into_tokens_of_just_its_bytes(name: str, text: str) -> None:
    source = source_of(TOKENIZERS[name], SIZE, [])
    ids = source(text)
    assert b"".join(source.tokens[id] for id in ids) == text.encode()
    assert not set(ids) & set(source.special_token_ids)


def test_text_is_cut_as_the_model_was_trained_to_read_it() -> None:
    tokenizer = bundled_tokenizer()
    text = '{"arguments": {"self": None}}'
    assert source_of(tokenizer, SIZE, [0, 2])(text) == tokenizer.encode(text, add_special_tokens=False)


def test_ends() -> None:
    """Those that the model has; one behind the vocabulary where it has none."""
    assert TokenSource([b"a", b"b", b"c"], [], [2, 0, 7]).ends == [0, 2]
    assert TokenSource([b"a", b"b", b"c"], [], [7]).ends == [3]
    assert TokenSource([b"a", b"b"], [], []).vocabulary.vocab_size == 3

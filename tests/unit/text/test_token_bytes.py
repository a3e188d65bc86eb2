"""The bytes of tokens and the text of all of them agree, over whole vocabularies of every kind of tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from router_service.text.detokenizer import Detokenizer
from router_service.text.json_tokenizer import JsonTokenizer
from tests.unit.front.front_fakes import byte_fallback_tokenizer, byte_level_tokenizer, metaspace_tokenizer
from tests.unit.text.test_plain_encoding import unigram_tokenizer
from tests.unit.text.tiktoken_fakes import kimi_tokenizer

# Of characters that stand for bytes in a byte-level vocabulary, and others that do not.
LITERAL = {"café": False, "Ġfoo": False, "<|ĠĊ|>": True, "é": False, "naïve<|x|>": True}
PLAIN = {"<think>": False, "<\uff5cUser\uff5c>": False, "\u2581\u2581\u2581": False, "<|end|>": True, "你好": False}


def adding(tokenizer: Tokenizer, words: dict[str, bool]) -> Tokenizer:
    tokenizer.add_tokens([AddedToken(word, special=special, normalized=False) for word, special in words.items()])
    return tokenizer


def bpe_without_decoder() -> Tokenizer:
    return Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))


def replacing() -> Tokenizer:
    """A decoder that replaces something else than U+2581."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "x_": 1, "_y": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


OURS = {"byte-level with literals": adding(byte_level_tokenizer(), LITERAL | PLAIN)}
AS_TRANSFORMERS = {
    "byte-level": adding(byte_level_tokenizer(), PLAIN),
    "byte-fallback": adding(byte_fallback_tokenizer(), PLAIN | LITERAL),
    "metaspace": adding(metaspace_tokenizer(), PLAIN | LITERAL),
    "unigram": adding(unigram_tokenizer(), PLAIN | LITERAL),
    "no decoder": adding(bpe_without_decoder(), PLAIN),
    "replace": adding(replacing(), PLAIN),
}
TOKENIZERS = {kind: JsonTokenizer(tokenizer) for kind, tokenizer in (OURS | AS_TRANSFORMERS).items()}
VOCABULARIES = {kind: (TOKENIZERS[kind], size.get_vocab_size()) for kind, size in (OURS | AS_TRANSFORMERS).items()}


def joined(tokenizer: JsonTokenizer, ids: list[int]) -> bytes:
    return b"".join(tokenizer.bytes_of(id) for id in ids)


def agrees(raw: bytes, text: str, exact: bool) -> bool:
    """Whether `raw` is the text, up to the spaces in front: only byte-level decoders leave those of a first token."""
    whole = raw.decode(errors="replace")
    return whole == text if exact else whole.endswith(text) and not whole.removesuffix(text).strip(" ")


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_every_token_adds_its_bytes(kind: str) -> None:
    tokenizer, size = VOCABULARIES[kind]
    before = tokenizer.encode("a", add_special_tokens=False)
    start = len(tokenizer.decode(before))
    for id in range(size):
        text = tokenizer.decode([*before, id], skip_special_tokens=False)[start:]
        assert text == tokenizer.text_of(id), id
        assert agrees(
            text.encode(), tokenizer.decode([id], skip_special_tokens=False), kind.startswith("byte-level")
        ), id


@pytest.mark.parametrize("kind", VOCABULARIES)
@given(data=st.data())
@settings(deadline=None)
def test_the_bytes_of_any_tokens_are_their_text(kind: str, data: st.DataObject) -> None:
    tokenizer, size = VOCABULARIES[kind]
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
    raw, text = joined(tokenizer, ids), tokenizer.decode(ids, skip_special_tokens=False)
    # One bad byte makes U+FFFD of a whole run of byte tokens, so only what is UTF-8 can agree there.
    if not tokenizer.byte_fallback or _is_utf8(raw):
        assert agrees(raw, text, exact=kind.startswith("byte-level"))


def _is_utf8(raw: bytes) -> bool:
    return "\ufffd" not in raw.decode(errors="replace")


@pytest.mark.parametrize("kind", AS_TRANSFORMERS)
@given(data=st.data())
@settings(deadline=None)
def test_the_text_is_that_of_transformers(kind: str, data: st.DataObject) -> None:
    tokenizer, size = VOCABULARIES[kind]
    oracle = PreTrainedTokenizerFast(tokenizer_object=AS_TRANSFORMERS[kind])
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=20))
    for skip in (False, True):
        expected = oracle.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


def test_an_added_token_of_the_byte_alphabet_is_its_own_text() -> None:
    tokenizer = TOKENIZERS["byte-level with literals"]
    text = "hello café naïve<|x|> 你好<|ĠĊ|>é"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert {tokenizer.id_of(word) for word in ("café", "<|ĠĊ|>", "naïve<|x|>", "é")} <= set(ids)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(ids) == "hello café  你好é"
    assert joined(tokenizer, ids).decode() == text


def test_a_hidden_token_does_not_part_the_bytes_of_a_character() -> None:
    tokenizer = TOKENIZERS["byte-level with literals"]
    hidden, shown = tokenizer.id_of("<|ĠĊ|>"), tokenizer.id_of("café")
    assert hidden is not None
    assert shown is not None
    bytes_of_e = [tokenizer.id_of("Ã"), tokenizer.id_of("©")]
    lead, tail = (id for id in bytes_of_e if id is not None)
    assert tokenizer.decode([shown, lead, hidden, tail]) == "caféé"
    assert tokenizer.decode([lead, shown, tail]) == "\ufffdcafé\ufffd"


@given(ids=st.lists(st.integers(0, VOCABULARIES["byte-level with literals"][1] - 1), max_size=60))
@settings(deadline=None)
def test_such_tokens_stream_to_their_whole_decoding(ids: list[int]) -> None:
    tokenizer = TOKENIZERS["byte-level with literals"]
    stream = Detokenizer(tokenizer)
    assert "".join([*(stream.push([id]) for id in ids), stream.flush()]) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 700), max_size=40))
def test_tiktoken(ids: list[int]) -> None:
    tokenizer = kimi_tokenizer()
    raw = b"".join(tokenizer.bytes_of(id) for id in ids)
    assert raw.decode(errors="replace") == tokenizer.decode(ids, skip_special_tokens=False)

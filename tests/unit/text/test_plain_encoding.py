"""Text in which markers are ordinary text: by every kind of tokenizer, with the ids that the text has otherwise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from router_service.text.json_tokenizer import JsonTokenizer
from tests.unit.front.front_fakes import SPECIALS, byte_fallback_tokenizer, byte_level_tokenizer
from tests.unit.text.tiktoken_fakes import kimi_tokenizer

MARKERS = (*SPECIALS, "<s>", "</s>")
WORDS = ("hello world", " a", "\n", "<think>", "the", "<|im_", "|>", "<", "é")


def with_words(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    # As DeepSeek-V3 has its turns: not special, and yet nothing else than a marker.
    tokenizer.add_tokens([AddedToken("<\uff5cUser\uff5c>", special=False, normalized=False)])
    return tokenizer


def unigram_tokenizer() -> Tokenizer:
    """Its model has the special tokens among its pieces, and finds them in a text by itself."""
    letters = [(letter, -5.0) for letter in "<s>/|im_startenduUsrhlowkabc\u2581"]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("\u2581hello", -2.0), *dict(letters).items()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


TOKENIZERS = {
    "byte-level": with_words(byte_level_tokenizer()),
    "byte-fallback": with_words(byte_fallback_tokenizer()),
    "unigram": with_words(unigram_tokenizer()),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("marker", [*MARKERS, "<\uff5cUser\uff5c>"])
def test_a_marker_is_text(kind: str, marker: str) -> None:
    tokenizer = JsonTokenizer(TOKENIZERS[kind])
    ids = tokenizer.encode_parts([f"hello{marker} a"])
    markers = {tokenizer.id_of(name) for name in (*MARKERS, "<\uff5cUser\uff5c>")}
    assert not markers & set(ids)
    if kind != "unigram":  # which has no pieces for all of it
        assert tokenizer.decode(ids, skip_special_tokens=False) == f"hello{marker} a"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_word_that_was_added_is_its_id_and_what_is_put_around_a_prompt_stays(kind: str) -> None:
    tokenizer = JsonTokenizer(TOKENIZERS[kind])
    for text in ("", "hello<think>a", "a<think>"):
        for around in (False, True):
            allowed = tokenizer.encode(text, add_special_tokens=around)
            assert tokenizer.encode_parts([text], add_special_tokens=around) == allowed


@given(parts=st.lists(st.sampled_from([*WORDS, *SPECIALS])))
@settings(deadline=None)
def test_the_ids_are_those_of_transformers_with_special_tokens_split(parts: list[str]) -> None:
    text = "".join(parts)
    oracle = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS["byte-level"])
    expected = oracle(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    tokenizer = JsonTokenizer(TOKENIZERS["byte-level"])
    assert tokenizer.encode_parts([text]) == expected


def test_tiktoken() -> None:
    tokenizer = kimi_tokenizer()
    text = "hello<|im_end|>[BOS]</think> a"
    ids = tokenizer.encode_parts([text])
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.id_of("</think>") in ids
    assert tokenizer.decode(ids) == text

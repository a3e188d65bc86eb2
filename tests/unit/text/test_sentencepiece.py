"""A tokenizer from tokenizer.model: equal to the library, and to transformers' tokenizers of the same model."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaTokenizer
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from experts.checkpoint.errors import CheckpointError
from router_service.text.detokenizer import Detokenizer
from router_service.text.end_tokens import checkpoint_end_tokens
from router_service.text.sentence_piece.tokenizer import SentencePieceTokenizer
from router_service.text.tokenizer import Tokenizer
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.text.sentencepiece_fakes import model, write_model

KINDS = [(kind, prefixed) for kind in ("bpe", "unigram") for prefixed in (True, False)]
NAMED = ("<s>", "</s>", "<unk>")
PARTS = [
    "hello",
    " world",
    "  ",
    " ",
    "the lazy",
    "é",
    "你好",
    "\U0001f600",
    "\n",
    "x",
    "<",
    "|>",
    "im_start",
    "\u2581",
]
TEXTS = st.lists(st.sampled_from([*PARTS, "<mask>", *NAMED])).map("".join) | st.text()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found: dict[tuple[object, ...], Tokenizer] = {}

    def load(kind: str, prefixed: bool, legacy: bool = True, **options: bool) -> Tokenizer:
        key = (kind, prefixed, legacy, *options.items())
        if key not in found:
            directory = write_model(tmp_path_factory.mktemp("model"), model(kind, prefixed, **options), legacy=legacy)
            found[key] = load_tokenizer(directory)
        return found[key]

    return load


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' slow tokenizer, which asks the library, and its fast one, which is made from the model."""
    slow, fast = {}, {}
    for kind, prefixed in KINDS:
        directory = write_model(tmp_path_factory.mktemp("model"), model(kind, prefixed), legacy=False)
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        slow[kind, prefixed] = SentencePieceBackend(vocab_file=str(directory / "tokenizer.model"), legacy=True, **names)
        fast[kind, prefixed] = LlamaTokenizer.from_pretrained(directory, add_prefix_space=prefixed)
    return slow, fast


@pytest.mark.parametrize(("kind", "prefixed"), KINDS)
@given(text=TEXTS)
@settings(deadline=None)
def test_ids_are_those_of_transformers_slow_tokenizer(
    loaded: Any, oracles: Any, kind: str, prefixed: bool, text: str
) -> None:
    expected = oracles[0][kind, prefixed](text, add_special_tokens=False)["input_ids"]
    assert loaded(kind, prefixed).encode(text, add_special_tokens=False) == expected


@pytest.mark.parametrize("prefixed", [True, False])
@given(text=TEXTS)
@settings(deadline=None)
def test_ids_are_those_of_transformers_fast_tokenizer(loaded: Any, oracles: Any, prefixed: bool, text: str) -> None:
    """But for a text that begins with a space or a symbol of the model's: the fast one puts no space before it."""
    if prefixed and text.startswith((" ", "\u2581", "<mask>", "<sep>")):
        text = "hello" + text
    expected = oracles[1]["bpe", prefixed](text, add_special_tokens=False)["input_ids"]
    assert loaded("bpe", prefixed, legacy=False).encode(text, add_special_tokens=False) == expected


@pytest.mark.parametrize(("kind", "prefixed"), KINDS)
@given(ids=st.lists(st.integers(0, 420), max_size=30))
@settings(deadline=None)
def test_texts_are_those_of_transformers_fast_tokenizer(
    loaded: Any, oracles: Any, kind: str, prefixed: bool, ids: list[int]
) -> None:
    oracle = oracles[1][kind, prefixed]
    known = [id for id in ids if id < len(oracle)]
    for skip in (False, True):
        expected = oracle.decode(known, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert loaded(kind, prefixed).decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize(("kind", "prefixed"), KINDS)
@pytest.mark.parametrize("identity", [True, False])
@given(text=st.text(st.sampled_from("hello wrd\u00e9\u4f60\ufb01 \n")))
@settings(deadline=None)
def test_plain_text_is_encoded_as_by_the_library(
    loaded: Any, kind: str, prefixed: bool, identity: bool, text: str
) -> None:
    """Also with a normalizer that changes characters and spaces."""
    library = sentencepiece.SentencePieceProcessor(model_proto=model(kind, prefixed, identity=identity))
    tokenizer = loaded(kind, prefixed, identity=identity)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == library.encode(text)
    if "\ufffd" not in tokenizer.decode(ids):
        assert tokenizer.decode(ids) == library.decode(ids)


@pytest.mark.parametrize(("kind", "prefixed"), KINDS)
def test_the_bytes_of_the_whole_vocabulary_agree_with_its_texts(loaded: Any, kind: str, prefixed: bool) -> None:
    tokenizer: SentencePieceTokenizer = loaded(kind, prefixed)
    before = [tokenizer.encode("x", add_special_tokens=False)[-1]]
    start = len(tokenizer.decode(before))
    ids = [id for id in range(500) if tokenizer.bytes_of(id)]
    assert len(ids) > 280
    for id in ids:
        assert tokenizer.decode([*before, id], skip_special_tokens=False)[start:] == tokenizer.text_of(id)
        assert tokenizer.is_visible(id) is bool(tokenizer.decode([*before, id])[start:])
    assert tokenizer.bytes_of(10_000) == b""
    assert not tokenizer.is_visible(10_000)
    assert sorted(tokenizer.byte_fallback.values()) == list(range(256))


@pytest.mark.parametrize("legacy", [True, False])
@given(text=TEXTS)
@settings(deadline=None)
def test_the_bytes_of_a_text_are_it_but_for_the_space_before_each_part(loaded: Any, legacy: bool, text: str) -> None:
    tokenizer = loaded("bpe", True, legacy=legacy)
    ids = tokenizer.encode(text, add_special_tokens=False)
    raw = b"".join(tokenizer.bytes_of(id) for id in ids).decode()
    text = text.replace("\u2581", " ")  # the model has one and the same for both
    assert raw.replace(" ", "") == text.replace(" ", "")
    if not any(name in text for name in NAMED):
        assert raw in (f" {text}", text)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(ids=st.lists(st.integers(0, 420), max_size=32))
@settings(deadline=None)
def test_any_tokens_stream_to_their_whole_decoding(loaded: Any, kind: str, ids: list[int]) -> None:
    tokenizer = loaded(kind, True)
    stream = Detokenizer(tokenizer)
    assert "".join([*(stream.push([id]) for id in ids), stream.flush()]) == tokenizer.decode(ids)


def test_control_symbols_are_ids_where_they_may_be(loaded: Any) -> None:
    tokenizer = loaded("bpe", True)
    control = tokenizer.id_of("<|im_start|>")
    assert control in tokenizer.special_ids
    assert control in tokenizer.encode("a<|im_start|>b", add_special_tokens=False)
    assert tokenizer.controls["<ctl>"] == tokenizer.id_of("<ctl>")
    plain = tokenizer.encode_parts(["a<|im_start|><s>b<mask>"])
    assert not tokenizer.special_ids & set(plain)
    assert tokenizer.id_of("<mask>") in plain
    assert tokenizer.decode(plain) == "a<|im_start|><s>b<mask>"


def test_parts_are_encoded_as_in_the_whole(loaded: Any) -> None:
    for legacy in (True, False):
        tokenizer = loaded("bpe", True, legacy=legacy)
        control = tokenizer.id_of("<ctl>")
        whole = tokenizer.encode("hello<ctl> world again", add_special_tokens=True)
        assert tokenizer.encode_parts(["hello", control, " world", " again"], add_special_tokens=True) == whole
    legacy, later = (loaded("bpe", True, legacy=legacy).encode("a<ctl>b", False) for legacy in (True, False))
    assert len(legacy) >= len(later)
    assert legacy != later


def test_without_byte_tokens_what_is_not_in_the_vocabulary_is_unknown(loaded: Any) -> None:
    tokenizer = loaded("bpe", True, fallback=False)
    assert tokenizer.byte_fallback == {}
    assert tokenizer.encode("hello 你", add_special_tokens=False)[-1] == tokenizer.id_of("<unk>")


def test_half_a_surrogate_pair_is_a_replacement_character(loaded: Any) -> None:
    tokenizer = loaded("bpe", True)
    assert tokenizer.encode("a\ud800b", False) == tokenizer.encode("a\ufffdb", False)


def test_what_is_around_a_prompt(tmp_path: Path) -> None:
    def ends(**config: object) -> tuple[int, int]:
        ids = load_tokenizer(write_model(tmp_path, model(), **config)).encode("hello", add_special_tokens=True)
        return ids[0], ids[-1]

    assert ends()[0] == 1
    assert ends(add_bos_token=True, add_eos_token=True) == (1, 2)
    assert ends(add_bos_token=False)[0] != 1
    assert ends(bos_token="<ctl>")[0] == 3
    assert ends(bos_token=None)[0] == 1
    assert checkpoint_end_tokens(tmp_path) == (2,)


ADDED = {
    "330": {"content": "<|tool|>", "special": True},
    "331": {"content": "<think>", "special": False, "lstrip": True, "rstrip": True},
    "335": {"content": "word", "special": False, "single_word": True},
    "2": {"content": "</s>", "special": True},
}


def test_added_tokens(tmp_path: Path) -> None:
    write_model(tmp_path, model(), added_tokens_decoder=ADDED, additional_special_tokens=["<sep>", {"content": "old"}])
    (tmp_path / "added_tokens.json").write_text(json.dumps({"old": 332, "<think>": 331, "older": 333}))
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("hello<|tool|> a <think> b word sword older old", add_special_tokens=False)
    assert [id for id in ids if id >= 330] == [330, 331, 335, 333, 332]
    assert tokenizer.decode(ids) == "hello  a<think> b word  sword older  "
    assert tokenizer.special_ids >= {330, 332, 0, 1, 2, tokenizer.id_of("<sep>")}
    assert tokenizer.special_ids.isdisjoint({331, 333, 335})
    assert tokenizer.bytes_of(331) == b"<think>"
    assert tokenizer.id_of("<|tool|>") == 330
    assert tokenizer.bytes_of(334) == b""
    plain = tokenizer.encode_parts(["<|tool|><think>"])
    assert 330 not in plain
    assert 331 in plain


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder.x: the key must be a token id"),
        ({"added_tokens_decoder": {"007": {"content": "a"}}}, "added_tokens_decoder.007: the key must be a token id"),
        ({"added_tokens_decoder": {"7": {}}}, "'' is no token"),
        ({"added_tokens_decoder": {"7": {"content": 3}}}, "added_tokens_decoder.7.content is 3, it must be a string"),
        ({"added_tokens_decoder": {"7": "a"}}, "added_tokens_decoder.7 is 'a', it must be an object"),
        ({"added_tokens_decoder": {"7": {"content": "a", "lstrip": 1}}}, "7.lstrip is 1, it must be true or false"),
        ({"added_tokens_decoder": {"900": {"content": "a"}, "901": {"content": "a"}}}, "900 and 901 are both 'a'"),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "how a XLMRobertaTokenizer uses it is not known"),
        ({"legacy": "no"}, "legacy is 'no', it must be true or false"),
    ],
)
def test_wrong_configurations_are_refused(tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(write_model(tmp_path, model(), **config))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"aGVsbG8= 0\nd29ybGQ= 1\n", b"\x00\x01\x02", model()[:500], b"{}"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Such as Llama 3's tokenizer.model, which is a tiktoken vocabulary."""
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: no SentencePiece model: .*add a tokenizer\.json"):
        load_tokenizer(write_model(tmp_path, content))


def test_a_pointer_of_git_lfs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: a pointer of Git LFS, not the file itself"):
        load_tokenizer(write_model(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"))


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: .*pip install 'expertmesh\[sentencepiece\]'"):
        load_tokenizer(write_model(tmp_path, model()))

"""A tokenizer from tekken.json: equal to mistral-common's, which is no dependency of ours."""

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from experts.checkpoint.errors import CheckpointError
from router_service.text.detokenizer import Detokenizer
from router_service.text.tekken.tokenizer import TekkenTokenizer
from router_service.text.tokenizer_files import load_tokenizer

WORDS = ["he", "ll", "hell", "hello", " w", " wo", "rld", " world", "12", "123", "\n\n", "  ", "é", "你", "你好"]
TOKENS = [*(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS), "😀".encode()[:2], b"unused"]
NAMES = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[THINK]"]
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = 10
SIZE = SPECIALS + len(TOKENS) - 1  # the last one is beyond the model's vocabulary
TEXTS = st.text() | st.lists(st.sampled_from([*WORDS, *NAMES, "H", "😀", " ", "1234567"])).map("".join)


def written() -> dict[str, Any]:
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(TOKENS),
            "default_vocab_size": SIZE,
            "default_num_special_tokens": SPECIALS,
            "version": "v11",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(TOKENS)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": name != "[THINK]"} for rank, name in enumerate(NAMES)
        ],
    }


def write(directory: Path, content: object) -> Path:
    (directory / "tekken.json").write_text(json.dumps(content))
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tekken"), written())


@cache
def oracle(directory: Path) -> Tekkenizer:
    return Tekkenizer.from_file(directory / "tekken.json")


@cache
def loaded(directory: Path) -> TekkenTokenizer:
    tokenizer = load_tokenizer(directory)
    assert isinstance(tokenizer, TekkenTokenizer)
    return tokenizer


@given(text=TEXTS)
@settings(deadline=None)
def test_ids_are_those_of_mistral_common(directory: Path, text: str) -> None:
    tokenizer, expected = loaded(directory), oracle(directory).encode(text, bos=False, eos=False)
    # It recognizes no special token in a text.
    assert tokenizer.encode_parts([text]) == expected
    assert tokenizer.encode_parts([text], add_special_tokens=True) == [1, *expected]
    if not any(name in text for name in NAMES):
        assert tokenizer.encode(text, add_special_tokens=False) == expected
        assert tokenizer.encode(text, add_special_tokens=True) == [1, *expected]
    assert b"".join(map(tokenizer.bytes_of, expected)).decode() == text


@given(ids=st.lists(st.integers(0, SIZE - 1), max_size=40))
@settings(deadline=None)
def test_texts_are_those_of_mistral_common(directory: Path, ids: list[int]) -> None:
    tokenizer = loaded(directory)
    raw = b"".join(map(tokenizer.bytes_of, ids))
    assert tokenizer.decode(ids, skip_special_tokens=False) == raw.decode(errors="replace")
    assert tokenizer.decode(ids, False) == oracle(directory).decode(ids, SpecialTokenPolicy.KEEP)
    stream = Detokenizer(tokenizer)
    assert "".join([*(stream.push([id]) for id in ids), stream.flush()]) == tokenizer.decode(ids)
    # It decodes the texts between special tokens one by one, and a character may lie across one.
    shown = [id for id in ids if id >= SPECIALS]
    assert tokenizer.decode(ids) == oracle(directory).decode(shown, SpecialTokenPolicy.IGNORE)


def test_special_tokens(directory: Path) -> None:
    tokenizer = loaded(directory)
    assert tokenizer.encode("[INST]hello[/INST]</s>", add_special_tokens=False)[0] == 3
    assert tokenizer.special_ids == set(range(SPECIALS))
    assert set(tokenizer.controls) >= set(NAMES)
    assert tokenizer.id_of("<SPECIAL_9>") == 9
    assert tokenizer.id_of("hello") == SPECIALS + TOKENS.index(b"hello")
    assert tokenizer.id_of("unused") is None
    assert tokenizer.bytes_of(SIZE) == b""
    assert [tokenizer.is_visible(id) for id in (0, SPECIALS, SIZE - 1, SIZE)] == [False, True, True, False]
    parts = ["a[INST]", 3, "b"]
    assert tokenizer.encode_parts(parts).count(3) == 1


def test_tokenizer_config_says_what_is_around_a_prompt(tmp_path: Path) -> None:
    def around(**config: object) -> list[int]:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        ids = load_tokenizer(write(tmp_path, written())).encode("a", add_special_tokens=True)
        return [id for id in ids if id < SPECIALS]

    assert around() == [1]
    assert around(add_bos_token=False) == []
    assert around(add_bos_token=True, bos_token="[INST]", add_eos_token=True, eos_token="</s>") == [3, 2]


def test_an_older_file_does_not_list_its_special_tokens(tmp_path: Path) -> None:
    content = written()
    del content["special_tokens"]
    content["config"] |= {"version": "v3", "default_num_special_tokens": 22}
    directory = write(tmp_path, content)
    expected = Tekkenizer.from_file(directory / "tekken.json")
    tokenizer = load_tokenizer(directory)
    assert [tokenizer.text_of(id) for id in range(22)] == [expected.id_to_piece(id) for id in range(22)]
    assert tokenizer.encode("hello", add_special_tokens=True) == expected.encode("hello", bos=True, eos=False)


def test_a_long_run_is_encoded(directory: Path) -> None:
    for text in (" " * 300_000, "a" * 60_000, "é" * 60_000):
        ids = loaded(directory).encode(text, add_special_tokens=False)
        assert loaded(directory).decode(ids) == text


def changed(*path: str | int, to: object) -> dict[str, Any]:
    content: Any = written()
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("config", "pattern", to=None), "config.pattern is '', it must be the regular expression"),
        (changed("config", "default_vocab_size", to="9"), "config.default_vocab_size is '9', it must be"),
        (changed("config", "default_vocab_size", to=5000), "it must list at least 4990 tokens"),
        (changed("config", "default_num_special_tokens", to=3), "it must list at most 3 tokens, each once"),
        (changed("config", to=[]), "config is [], it must be an object"),
        (changed("vocab", to={}), "vocab is {}, it must list at least"),
        (changed("vocab", 7, to=None), "vocab[7] is None, it must have the rank 7 and token_bytes in base64"),
        (changed("vocab", 7, "rank", to=8), "vocab[7] is "),
        (changed("vocab", 7, "token_bytes", to="*"), "vocab[7] is "),
        (changed("vocab", 7, "token_bytes", to=""), "vocab[7] is "),
        (changed("vocab", 260, "token_bytes", to="aGU="), "it is vocab[256] again"),
        (changed("vocab", 7, "token_bytes", to="dW51c2Vk"), "byte 0x07 is no token"),
        (changed("special_tokens", to=None), "special_tokens is None, a file of version 'v11' must list them"),
        (changed("special_tokens", to="x"), "special_tokens is 'x', it must be a list"),
        (changed("special_tokens", 2, "token_str", to="<s>"), "it must list at most 10 tokens, each once"),
        (changed("special_tokens", 2, "rank", to=3), "special_tokens[2] is "),
        (changed("special_tokens", 2, "token_str", to=""), "special_tokens[2] is "),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(write(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'tekken.json'}: ")
    assert message in str(caught.value)


def test_an_expression_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tekken\.json: config\.pattern"):
        load_tokenizer(write(tmp_path, changed("config", "pattern", to="(")))


def test_a_pointer_of_git_lfs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"tekken\.json: a pointer of Git LFS, not the file itself"):
        load_tokenizer(tmp_path)

"""Which tokenizer a checkpoint has, and what is said of files that are none."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from experts.checkpoint.errors import CheckpointError
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import load_text_model
from router_service.text.tiktoken.tokenizer import TiktokenTokenizer
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.front.front_fakes import byte_level_tokenizer, write_checkpoint
from tests.unit.text.tiktoken_fakes import BASE, RANKS, added, vocabulary, write_kimi


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(directory))
    return message


def test_a_tokenizer_json_wins(tmp_path: Path) -> None:
    write_kimi(tmp_path)
    (tmp_path / "tiktoken.model").write_text("no vocabulary")
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert isinstance(load_tokenizer(tmp_path), JsonTokenizer)


@pytest.mark.parametrize(
    ("model_type", "file"),
    [
        ("kimi_k2", "tiktoken.model"),
        ("kimi_k25", "tiktoken.model"),
        ("kimi_k2", "kimi.tiktoken"),
        ("deepseek_v3", "tiktoken.model"),
    ],
)
def test_known_vocabularies(tmp_path: Path, model_type: str, file: str) -> None:
    assert isinstance(load_tokenizer(write_kimi(tmp_path, model_type, file)), TiktokenTokenizer)


@pytest.mark.parametrize(
    ("model_type", "file"),
    [
        ("qwen", "qwen.tiktoken"),
        ("deepseek_v3", "other.tiktoken"),
        (None, "tiktoken.model"),
        (["kimi_k2"], "a.tiktoken"),
    ],
)
def test_a_model_type_whose_split_is_unknown_is_refused(tmp_path: Path, model_type: object, file: str) -> None:
    message = refusal(write_kimi(tmp_path, model_type, file))
    assert message.startswith(
        f"{tmp_path / 'config.json'}: how model_type {model_type!r} splits text for {file} is not"
    )
    assert message.endswith(
        "only for kimi_k2, kimi_k25, deepseek_v3 with tiktoken.model; add a tokenizer.json made from the vocabulary"
    )


def test_no_tokenizer_and_too_many(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'tokenizer.json'}: no such file, nor tiktoken.model, one *.tiktoken")
    for name in ("b.tiktoken", "a.tiktoken"):
        (tmp_path / name).write_bytes(vocabulary())
    assert "2 tiktoken vocabularies (a.tiktoken, b.tiktoken)" in refusal(tmp_path)


def test_nothing_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    directory = write_kimi(tmp_path / "checkpoint")
    before = load_tokenizer(directory).id_of("aaaa")
    swapped = {**RANKS, b"aaaa": RANKS[b"he"], b"he": RANKS[b"aaaa"]}
    (directory / "tiktoken.model").write_bytes(vocabulary(swapped))
    assert load_tokenizer(directory).id_of("aaaa") == RANKS[b"he"] != before
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("order", ["backwards", "blank lines", "carriage returns"])
def test_lines_may_stand_in_any_order(tmp_path: Path, order: str) -> None:
    lines = vocabulary().splitlines()
    written = {
        "backwards": b"\n".join(lines[::-1]),
        "blank lines": b"\n\n".join(lines) + b"\n\n",
        "carriage returns": b"\r\n".join(lines) + b"\r\n",
    }
    (write_kimi(tmp_path) / "tiktoken.model").write_bytes(written[order])
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(" hello", add_special_tokens=True) == [RANKS[b" hello"]]
    assert tokenizer.decode([RANKS[b" hello"]]) == " hello"


def line(number: int, content: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """A change of one line, counted from 1."""
    return lambda lines: [*lines[: number - 1], content, *lines[number:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (line(7, b"*** 6"), "line 7: expected a token in base64 and its rank, found b'*** 6'"),
        (line(7, b"YW*I= 6"), "line 7: expected a token in base64"),
        (line(7, b"YWE 6"), "line 7: expected a token in base64"),
        (line(7, b"YWI="), "line 7: expected a token in base64"),
        (line(7, b"YWI= 6 6"), "line 7: expected a token in base64"),
        (line(7, b"YWI= -6"), "line 7: expected a token in base64"),
        (line(7, b"YWI= 1_0"), "line 7: expected a token in base64"),
        (line(7, b"YWI= " + b"9" * 5000), "line 7: expected a token in base64"),
        (line(7, b"\xff\xfe 6"), "line 7: expected a token in base64"),
        (line(270, b"YWI= 3"), "line 270: rank 3 is on line 4 too"),
        (line(270, b"aGU= 269"), "line 270: token b'he' is on line 257 too"),
        (lambda lines: lines[:260] + lines[261:], "line 261: rank 261, but no line has rank 260"),
        (lambda lines: lines[1:], "line 1: rank 1, but no line has rank 0"),
        (line(256, b"YWI= 255"), f"{BASE} lines, but 1 of the 256 bytes are no token, 0x00 the first"),
        (lambda lines: lines[:200], "200 lines, but 56 of the 256 bytes are no token, 0x00 the first"),
        (lambda lines: lines[:0], "0 lines, but 256 of the 256 bytes are no token"),
    ],
)
def test_a_malformed_vocabulary(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], message: str) -> None:
    path = write_kimi(tmp_path) / "tiktoken.model"
    path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))
    said = refusal(tmp_path)
    assert said.startswith(f"{path}: {message}")
    assert said.endswith("; fetch the file again")


FIRST, LAST = str(BASE), str(BASE + 255)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"x": added("a")}, "'x': expected a token id"),
        ({f"0{FIRST}": added("a")}, f"'0{FIRST}': expected a token id"),
        ({"-1": added("a")}, "'-1': expected a token id"),
        ({"\u0663": added("a")}, "'\u0663': expected a token id"),
        ({"9" * 5000: added("a")}, "'9999"),
        ({"5": added("a")}, f"5 is an id of the vocabulary file: added tokens are {FIRST} to {LAST}"),
        ({str(BASE + 256): added("a")}, f"{BASE + 256} is out of range: added tokens are {FIRST} to {LAST}"),
        ({FIRST: "a"}, f"{FIRST}: expected a content and whether it is special, found 'a'"),
        ({FIRST: {"special": True}}, f"{FIRST}: expected a content"),
        ({FIRST: added("")}, f"{FIRST}: expected a content"),
        ({FIRST: {"content": "a", "special": "yes"}}, f"{FIRST}: expected a content"),
        ({FIRST: {"content": ["a" * 5000]}}, f"{FIRST}: expected a content"),
        ({FIRST: added("a\ud800")}, f"{FIRST}: content 'a\\ud800' has half a surrogate pair"),
        ({FIRST: added("a"), LAST: added("a")}, f"{FIRST} and {LAST} are both 'a'"),
        ({FIRST: added(f"<|reserved_token_{LAST}|>")}, f"{FIRST} and {LAST} are both '<|reserved_token_{LAST}|>'"),
    ],
)
def test_malformed_added_tokens(tmp_path: Path, named: object, message: str) -> None:
    path = write_kimi(tmp_path) / "tokenizer_config.json"
    path.write_text(json.dumps({"added_tokens_decoder": named}))
    assert refusal(tmp_path).startswith(f"{path}: added_tokens_decoder: {message}")


def test_tokens_that_nothing_names_are_reserved(tmp_path: Path) -> None:
    (write_kimi(tmp_path) / "tokenizer_config.json").unlink()
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_ids == set(range(BASE, BASE + 256))
    assert tokenizer.id_of(f"<|reserved_token_{BASE + 2}|>") == BASE + 2


def test_added_tokens_that_are_no_object(tmp_path: Path) -> None:
    path = write_kimi(tmp_path) / "tokenizer_config.json"
    path.write_text(json.dumps({"added_tokens_decoder": []}))
    assert refusal(tmp_path) == f"{path}: added_tokens_decoder is [], it must be an object"


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9085657\n"
TEXT_FILES = ("tokenizer.json", "config.json", "generation_config.json", "tokenizer_config.json")
TEXT_FILES += ("special_tokens_map.json", "chat_template.jinja", "chat_template.json")


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_pointer_of_git_lfs_in_place_of_a_text_file(tmp_path: Path, name: str) -> None:
    (write_checkpoint(tmp_path) / name).write_text(POINTER)
    with pytest.raises(CheckpointError) as caught:
        load_text_model(tmp_path)
    fault = f"{tmp_path / name}: a pointer of Git LFS, not the file itself: run `git lfs pull` where it was cloned"
    assert str(caught.value) == fault


@pytest.mark.parametrize("name", ["tiktoken.model", "qwen.tiktoken"])
def test_a_pointer_of_git_lfs_in_place_of_a_vocabulary(tmp_path: Path, name: str) -> None:
    (write_kimi(tmp_path, file=name) / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match="a pointer of Git LFS, not the file itself: run `git lfs pull`"):
        load_text_model(tmp_path)

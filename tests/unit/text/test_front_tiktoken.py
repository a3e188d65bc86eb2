"""A tiktoken vocabulary behind the Front's tokenizer: the library's ids, whole texts, long inputs, a conversation."""

import dataclasses
import time
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from router_service.text.chats.conversation import Conversation
from router_service.text.detokenizer import Detokenizer
from router_service.text.text_model import load_text_model
from router_service.text.tiktoken.format import KIMI
from router_service.text.tiktoken.pieces import Cutter
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.text.tiktoken_fakes import BASE, NAMED, RANKS, kimi_tokenizer, plain_encode, write_kimi

TOKENIZER = kimi_tokenizer()
LIBRARY = tiktoken.Encoding(
    "oracle",
    pat_str=KIMI.pattern,
    mergeable_ranks=RANKS,
    special_tokens={NAMED.get(i, (f"<|reserved_token_{BASE + i}|>",))[0]: BASE + i for i in range(256)},
)
SPLIT_PLACES = [
    "hello",
    "Hello",
    "HI",
    "iHi",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\u2003",
    "1",
    "12345",
    "'s",
    "'S",
    "'ll",
    ".",
    "_",
]
SPLIT_PLACES += [
    "\u4f60\u597d",
    "\u6587E",
    "\u3042",
    "\u00e9",
    "e\u0301",
    "\u01c5",
    "\u02b0",
    "\U0001f600",
    "\u0663",
    "!?\n",
    "\t",
]
TEXTS = st.lists(st.sampled_from(SPLIT_PLACES)).map("".join)
MIXED = st.lists(st.sampled_from([*SPLIT_PLACES, *(name for name, _ in NAMED.values()), "<|im_", "[EO"])).map("".join)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=True)


@given(text=MIXED | st.text())
def test_ids_are_the_librarys_and_decode_to_the_text(text: str) -> None:
    ids = encode(text)
    assert ids == LIBRARY.encode(text, allowed_special="all")
    assert ids == TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(TOKENIZER.bytes_of, ids)) == text.encode()


@given(text=TEXTS)
def test_ids_are_those_of_plain_byte_pair_encoding(text: str) -> None:
    assert encode(text) == plain_encode(text)


def test_text_is_split_before_it_is_merged() -> None:
    def tokens(text: str) -> list[bytes]:
        return [TOKENIZER.bytes_of(id) for id in encode(text)]

    # Each of these has a token that reaches across the place of the split.
    assert tokens("1234") == [b"123", b"4"]
    assert tokens("\u6587E") == ["\u6587".encode(), b"E"]
    for before in ("E", "e", "."):
        assert tokens(f"{before}\u6587") == [before.encode(), "\u6587".encode()]
    assert tokens("iHi") == [b"i", b"Hi"]
    assert tokens("s.") == [b"s", b"."]
    # And here it is not split.
    assert tokens("no'S") == [b"n", b"o'S"]
    assert tokens("HI'S") == [b"H", b"I'S"]
    assert tokens("the   world") == [b"the", b"  ", b" world"]


def test_special_tokens_are_ids_in_text_and_have_no_text_of_their_own() -> None:
    ids = encode("[BOS]hello</think>\u4f60\u597d<|im_end|>[EO")
    assert [id for id in ids if id >= BASE] == [BASE, BASE + 22, BASE + 2]
    assert TOKENIZER.decode(ids) == "hello</think>\u4f60\u597d[EO"
    assert TOKENIZER.special_ids == set(range(BASE, BASE + 256)) - {BASE + 22}
    assert encode(f"<|reserved_token_{BASE + 100}|>") == [BASE + 100]
    assert encode(f"<|reserved_token_{BASE + 256}|>")[0] < BASE


def test_names_and_ids() -> None:
    assert TOKENIZER.id_of("<|im_end|>") == BASE + 2
    assert TOKENIZER.id_of(" hello") == RANKS[b" hello"]
    assert TOKENIZER.id_of("hello there") is None
    assert TOKENIZER.id_of("\ud800") is None
    assert TOKENIZER.text_of(BASE + 2) == "<|im_end|>"
    assert TOKENIZER.text_of(RANKS["\u4f60".encode()[:2]]) == "\ufffd"
    assert [TOKENIZER.is_visible(id) for id in (0, BASE + 22, BASE, BASE + 256, -1)] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("id", [-1, BASE + 256, 1 << 40])
def test_an_unknown_id_has_no_text(id: int) -> None:
    assert TOKENIZER.bytes_of(id) == b""
    assert TOKENIZER.decode([RANKS[b"he"], id, RANKS[b"ll"]]) == "hell"


def test_half_a_surrogate_pair_is_encoded_as_the_replacement_character() -> None:
    assert TOKENIZER.decode(encode("a\ud800b")) == "a\ufffdb"


def test_characters_split_over_tokens_stream_whole() -> None:
    text = "\u4f60\u597d\uff0c\u4e16\u754c\U0001f600\U0001f469\u200d\U0001f680 \u00e9t\u00e9"
    ids = encode(text)
    assert len(ids) > len(text)
    stream = Detokenizer(TOKENIZER)
    parts = [stream.push([id]) for id in ids]
    assert stream.flush() == ""
    # Each character comes with the token of its last byte.
    ends = [
        len(b"".join(map(TOKENIZER.bytes_of, ids[: count + 1])).decode(errors="ignore")) for count in range(len(ids))
    ]
    assert [sum(map(len, parts[: count + 1])) for count in range(len(ids))] == ends
    assert "".join(parts) == text


def test_a_special_token_between_the_bytes_of_a_character_does_not_part_them() -> None:
    first, last = encode("\U0001f600")
    assert TOKENIZER.decode([first, BASE + 2, last]) == "\U0001f600"
    stream = Detokenizer(TOKENIZER)
    assert [stream.push([id]) for id in (first, BASE + 2, last)] == ["", "", "\U0001f600"]


@pytest.mark.parametrize("character", ["a", "A", " ", "\n", "-", "1", "\u4f60", "\u3042", "\u0301", "\U0001f600"])
def test_a_million_of_one_character_takes_seconds(character: str) -> None:
    text = character * 1_000_000
    start = time.process_time()
    ids = encode(text)
    assert time.process_time() - start < 10
    assert TOKENIZER.decode(ids) == text


def published_cuts(text: str, segment: int, run: int) -> list[str]:
    """The cuts of the model's own tokenizer, a character at a time."""
    pieces: list[str] = []
    for start in range(0, len(text), segment):
        pieces.append("")
        length = 0
        for at in range(start, min(start + segment, len(text))):
            same = at > start and text[at].isspace() == text[at - 1].isspace()
            length = length + 1 if same else 1
            if length > run:
                pieces.append("")
                length = 1
            pieces[-1] += text[at]
    return pieces


@given(text=st.text("ab \n\x1c\u00a0\u2003\u4f60", max_size=60), segment=st.integers(1, 30), run=st.integers(1, 12))
def test_texts_are_cut_where_the_model_cuts_them(text: str, segment: int, run: int) -> None:
    format = dataclasses.replace(KIMI, segment=segment, run=run)
    assert list(Cutter(format, ["<|x|>"]).pieces(text)) == published_cuts(text, segment, run)


@given(parts=st.lists(st.sampled_from(["<|im_end|>", "[EOS]", "hello", "  ", "\u4f60"]), max_size=20), data=st.data())
def test_no_cut_parts_a_special_token(parts: list[str], data: st.DataObject) -> None:
    segment, run = data.draw(st.integers(10, 40)), data.draw(st.integers(10, 20))
    text = "".join(parts)
    format = dataclasses.replace(KIMI, segment=segment, run=run)
    pieces = list(Cutter(format, ["<|im_end|>", "[EOS]"]).pieces(text))
    assert "".join(pieces) == text
    assert all(pieces)
    for name in ("<|im_end|>", "[EOS]"):
        assert sum(piece.count(name) for piece in pieces) == text.count(name)
    ids = kimi_tokenizer(format).encode(text, add_special_tokens=False)
    assert [id for id in ids if id >= BASE] == [id for id in encode(text) if id >= BASE]


def test_a_cut_changes_ids_only_where_it_falls() -> None:
    text = "hello the world " * 30_000
    ids = encode(text)
    assert ids == encode(text[:400_000]) + encode(text[400_000:])
    assert TOKENIZER.decode(ids) == text
    # The limit falls within a token.
    run = "x" + "hello" * 12_000
    parts = [run[:25_000], run[25_000:50_000], run[50_000:]]
    assert encode(run) == [id for part in parts for id in LIBRARY.encode(part)] != LIBRARY.encode(run)


def test_a_conversation_and_its_end(tmp_path: Path) -> None:
    text = load_text_model(write_kimi(tmp_path))
    assert text.chat is not None
    rendered = text.chat.render(Conversation([{"role": "user", "content": "\u4f60\u597d"}]))
    assert rendered.startswith("[BOS]<|im_user|>user<|im_middle|>\u4f60\u597d<|im_end|>")
    assert rendered.endswith("<|im_middle|>[EOS]")
    ids = text.tokenizer.encode(rendered, add_special_tokens=False)
    assert [id - BASE for id in ids if id >= BASE] == [0, 3, 17, 2, 4, 17, 1]
    assert text.defaults.eos_token_ids == (BASE + 1,)


def test_a_loaded_checkpoint_is_the_same_tokenizer(tmp_path: Path) -> None:
    loaded = load_tokenizer(write_kimi(tmp_path))
    text = "[BOS]hello \u4f60\u597d</think>" + "".join(f"<|reserved_token_{BASE + i}|>" for i in range(257))
    assert loaded.encode(text, add_special_tokens=True) == encode(text)
    assert loaded.special_ids == TOKENIZER.special_ids
    assert loaded.byte_fallback == {}

"""Streaming text: whole characters, equal to the whole decoding, and no part of a stop string."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.text.detokenizer import Detokenizer
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.stop_strings import StopMatcher
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.front_fakes import SPECIALS, byte_fallback_tokenizer, byte_level_tokenizer, metaspace_tokenizer
from tests.unit.text.tiktoken_fakes import kimi_tokenizer

TOKENIZERS: dict[str, Tokenizer] = {
    "byte-level": JsonTokenizer(byte_level_tokenizer()),
    "byte-fallback": JsonTokenizer(byte_fallback_tokenizer()),
    "metaspace": JsonTokenizer(metaspace_tokenizer()),
    "tiktoken": kimi_tokenizer(),
}
TEXTS = st.text(st.sampled_from("ab hitx\u00e9\u4f60\U0001f600 \n\u2581\ufffd")) | st.text()


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = Detokenizer(tokenizer)
    return [*(stream.push([id]) for id in ids), stream.flush()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_any_tokens_stream_to_their_whole_decoding(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    # Runs of byte tokens are exact up to 32; ids above the vocabulary pad an embedding.
    ids = data.draw(st.lists(st.integers(0, 600), max_size=32 if kind == "byte-fallback" else 200))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "tiktoken"])
@given(text=TEXTS)
def test_any_text_streams_in_whole_characters(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=True)
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert all("\ufffd" not in part for part in parts)


@given(text=st.text("\u4f61\U0001f600\u00e9", min_size=40))
def test_long_runs_of_byte_tokens_stream_and_stay_exact(text: str) -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    ids = tokenizer.encode(text + " hi", add_special_tokens=False)
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == text + " hi"
    assert any(parts[:48])


@pytest.mark.parametrize("kind", ["byte-level", "tiktoken"])
def test_chunks_do_not_matter(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("h\u00e9llo \U0001f600 w\u00f6rld", add_special_tokens=False)
    stream = Detokenizer(tokenizer)
    assert stream.push(ids[:5]) + stream.push(ids[5:]) + stream.flush() == tokenizer.decode(ids)


def test_a_character_is_held_until_it_is_complete() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("\U0001f600", add_special_tokens=False)
    assert len(ids) == 4
    assert pieces(tokenizer, ids) == ["", "", "", "\U0001f600", ""]
    assert pieces(tokenizer, ids[:2]) == ["", "", "\ufffd"]


def test_special_tokens_have_no_text() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode(f"hello{SPECIALS[2]} world", add_special_tokens=False)
    assert "".join(pieces(tokenizer, ids)) == "hello world"
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"hello{SPECIALS[2]} world"


@pytest.mark.parametrize("kind", ["byte-level", "tiktoken"])
def test_a_token_costs_the_same_however_long_the_stream(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("hello world \u4f60\u597d " * 2000, add_special_tokens=False)
    stream = Detokenizer(tokenizer)

    def seconds(part: list[int]) -> float:
        start = time.thread_time()
        for id in part:
            stream.push([id])
        return time.thread_time() - start

    first, last = seconds(ids[:2000]), min(seconds(ids[start : start + 2000]) for start in (10000, 12000, 14000))
    assert last < 3 * first + 0.01
    assert stream.kept_tokens <= 32


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "tiktoken"])
@given(text=TEXTS)
def test_the_bytes_of_tokens_add_up_to_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    expected = text if kind != "byte-fallback" or not text else tokenizer.decode([*ids], skip_special_tokens=False)
    joined = b"".join(tokenizer.bytes_of(id) for id in ids).decode()
    assert joined == expected or joined == " " + expected


def first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The plain definition: the earliest end, then the longest."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return (text[: min(found)[1]], True) if found else (text, False)


@given(
    chunks=st.lists(st.text("abc", max_size=6), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=4),
)
def test_stop_strings_never_leak_however_the_text_is_cut(chunks: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    expected, stopped = first_stop("".join(chunks), stops)
    out = ""
    for chunk in chunks:
        out += matcher.push(chunk)
        assert expected.startswith(out)
    assert out + matcher.flush() == expected
    assert matcher.stopped is stopped


@given(chunks=st.lists(st.text("ab"), max_size=8), stop=st.text("ab", min_size=1, max_size=6))
def test_only_a_possible_start_is_held_back(chunks: list[str], stop: str) -> None:
    matcher = StopMatcher([stop])
    seen, out = "", ""
    for chunk in chunks:
        seen, out = seen + chunk, out + matcher.push(chunk)
        if not matcher.stopped:
            assert out == seen or stop.startswith(seen[len(out) :])


@given(
    early=st.lists(st.text("ab", max_size=4), max_size=6),
    late=st.lists(st.text("ab", max_size=4), max_size=6),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_may_begin_but_not_end_where_none_counts_yet(
    early: list[str], late: list[str], stops: list[str]
) -> None:
    matcher, before = StopMatcher(stops), "".join(early)
    out = "".join([*(matcher.push(chunk, may_stop=False) for chunk in early), *(matcher.push(chunk) for chunk in late)])
    whole = before + "".join(late)
    # The plain definition: the earliest end behind the text that does not count, then the longest.
    ends = ((end, start) for end in range(len(before) + 1, len(whole) + 1) for start in range(end))
    found = next(((end, start) for end, start in ends if whole[start:end] in stops), None)
    assert matcher.stopped is (found is not None)
    assert out + matcher.flush() == (whole if found is None else whole[: found[1]])


def test_text_without_stops_is_not_held() -> None:
    matcher = StopMatcher([])
    assert matcher.push("abc") == "abc"
    assert matcher.flush() == ""

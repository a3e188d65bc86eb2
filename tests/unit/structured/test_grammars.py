"""Grammars are compiled once, refused by name, and their matchers say which tokens may come next."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from router_service.protocol.messages import Structured
from router_service.structured.grammar import MAX_BYTES, GrammarError, nesting
from router_service.structured.grammars import CACHED_GRAMMARS, Grammars
from router_service.structured.mask_thread import MaskThread
from router_service.structured.matcher import Matcher
from router_service.text.json_tokenizer import JsonTokenizer
from tests.support.structured import ENDS, bundled_tokenizer, schema

SIZE = 3072


def made(ends: Sequence[int] = ENDS) -> Grammars:
    return Grammars(bundled_tokenizer, SIZE, ends)


def texts(matcher: Matcher) -> set[str]:
    tokenizer = bundled_tokenizer()
    bits = np.unpackbits(matcher.allowed, count=SIZE, bitorder="little")
    return {tokenizer.text_of(int(id)) for id in np.flatnonzero(bits)}


def object_of(**properties: Any) -> Structured:
    return schema({"type": "object", "properties": properties, "additionalProperties": False})


def nested(levels: int) -> Structured:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"type": "array", "items": value}
    return schema(value)


@pytest.mark.parametrize(
    ("structured", "named"),
    [
        (Structured("jason", "x"), "its kind 'jason' is unknown, must be one of json_schema, regex, grammar"),
        (Structured("regex", ""), f"must have 1 to {MAX_BYTES} bytes, has 0"),
        (Structured("regex", "a" * (MAX_BYTES + 1)), f"has {MAX_BYTES + 1}"),
        (Structured("regex", "\ud800"), "has a lone surrogate"),
        (Structured("regex", "(["), "unclosed"),
        (Structured("regex", "(?=a)b"), "look-around"),
        (Structured("regex", r"(a)\1"), "backreferences"),
        (Structured("regex", r"[^\s\S]"), "no answer can satisfy it"),
        (Structured("json_schema", "{"), "is no JSON"),
        (Structured("json_schema", "true"), "must be a JSON object, is bool"),
        (schema({"type": "strin"}), "strin"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (object_of(a={"not": {}, "if": {}}), '"if", "not"'),
        (object_of(a={"type": "string", "format": "phone"}), "phone"),
        (object_of(a={"type": "string", "x-guidance": {"lenient": True}, "contains": {}}), "contains"),
        (schema({"x-guidance": {"lenient": True}, "type": "array", "contains": {}}), "contains"),
        (schema({"$ref": "#"}), "no answer can satisfy it"),
        (schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "no answer can satisfy it"),
        (schema({"$ref": "https://example.com/schema.json"}), "https://example.com/schema.json"),
        (nested(70), "nested deeper than 64"),
        (Structured("json_schema", "[" * 100_000), "nested deeper than 64"),
        (Structured("grammar", "start: other"), "other"),
        (Structured("grammar", "start: start"), "no answer can satisfy it"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(structured: Structured, named: str) -> None:
    with pytest.raises(GrammarError) as refused:
        made().open(structured)
    assert named in str(refused.value)


def test_what_means_nothing_to_a_schema_is_no_error() -> None:
    annotations = {"title": "t", "description": "d", "default": 1, "examples": [], "unknown": 3}
    assert "{" in texts(made().open(schema({"type": "object", **annotations})))


def test_nesting() -> None:
    assert [nesting(text) for text in ("", "a", "()", "[{()}]()", "))((", '{"a":[1]}')] == [0, 0, 1, 3, 2, 2]


def test_allowed_tokens_follow_the_answer() -> None:
    tokenizer, threads = bundled_tokenizer(), MaskThread()
    matcher = made().open(Structured("regex", "(a|b)[0-9]"))
    assert texts(matcher) == {"a", "b"}
    for text, after in (("b", set("0123456789")), ("7", {"<|endoftext|>", "<|im_end|>"})):
        threads.advance([(matcher, _id(tokenizer, text))])
        threads.wait()
        assert texts(matcher) == after
    assert matcher.only(ENDS)
    assert not matcher.ends_itself
    threads.advance([(matcher, _id(tokenizer, "b"))])
    assert threads.wait() >= 0
    assert matcher.error


def test_a_matcher_that_fails_leaves_the_others_of_its_step() -> None:
    tokenizer, threads, grammars = bundled_tokenizer(), MaskThread(), made()
    matchers = [grammars.open(Structured("regex", "(a|b)[0-9]")) for _ in range(3)]
    threads.advance([(matcher, _id(tokenizer, text)) for matcher, text in zip(matchers, "a0b", strict=True)])
    threads.wait()
    assert [bool(matcher.error) for matcher in matchers] == [False, True, False]
    assert texts(matchers[0]) == texts(matchers[2]) == set("0123456789")


@pytest.mark.parametrize(("ends", "ignore_eos"), [(ENDS, True), ((), False), ((5000,), False)])
def test_without_an_end_it_is_complete_when_nothing_else_may_come(ends: tuple[int, ...], ignore_eos: bool) -> None:
    tokenizer, threads = bundled_tokenizer(), MaskThread()
    matcher = made(ends).open(Structured("regex", "ab?"), ignore_eos=ignore_eos)
    threads.advance([(matcher, _id(tokenizer, "a"))])
    threads.wait()
    assert (texts(matcher), matcher.complete) == ({"b"}, False)
    threads.advance([(matcher, _id(tokenizer, "b"))])
    threads.wait()
    assert (texts(matcher), matcher.complete, matcher.ends_itself) == (set(), True, True)


def test_an_answer_goes_on_behind_its_tokens() -> None:
    tokenizer = bundled_tokenizer()
    assert texts(made().open(Structured("regex", "[ab]c"), [_id(tokenizer, "a")])) == {"c"}
    with pytest.raises(GrammarError, match="the tokens that the answer has already"):
        made().open(Structured("regex", "[ab]c"), [_id(tokenizer, "c")])


def test_the_tokenizer_is_read_once_and_again_after_a_failure() -> None:
    reads: list[str] = []

    def load() -> JsonTokenizer:
        reads.append("read")
        if len(reads) == 1:
            raise OSError("not there yet")
        return bundled_tokenizer()

    grammars = Grammars(load, SIZE, ENDS)
    with pytest.raises(RuntimeError, match="cannot read the model's tokenizer: not there yet"):
        grammars.open(Structured("regex", "a"))
    for number in range(CACHED_GRAMMARS + 2):
        assert texts(grammars.open(Structured("regex", f"a{number}|b")))
    assert len(reads) == 2


def test_special_tokens_of_a_grammar() -> None:
    assert texts(made().open(Structured("grammar", 'start: <|im_start|> "a"'))) == {"<|im_start|>"}


def test_white_space_of_json_is_bounded() -> None:
    tokenizer, threads = bundled_tokenizer(), MaskThread()
    matcher = made().open(schema({"type": "object"}))
    for id in (_id(tokenizer, "{"), *[_id(tokenizer, "\n")] * 32):
        threads.advance([(matcher, id)])
        threads.wait()
    assert not matcher.error
    assert "\n" not in texts(matcher)
    assert json.loads("{" + "\n" * 32 + "}") == {}


def _id(tokenizer: JsonTokenizer, text: str) -> int:
    (id,) = tokenizer.encode(text, add_special_tokens=False)
    return id

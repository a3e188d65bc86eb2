"""What holds for any text: its pieces are the text, and how it is cut does not matter."""

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.front.parsing.answer_parsers import AnswerParsers, parsers_of
from router_service.front.parsing.choice import REASONING_NAMES, TOOL_NAMES
from router_service.front.parsing.forms import markers_of
from router_service.front.parsing.tape import Kind
from tests.unit.front.parsing.answers import CHAT, CLOCK, WEATHER, answer_of, chat_with, pieces_of, raw_of
from tests.unit.front.parsing.examples import EXAMPLES

PAIRS = [
    (reasoning, tools)
    for tools in ("none", *TOOL_NAMES)
    for reasoning in ("none", *REASONING_NAMES)
    if (reasoning == "openai_gptoss") == (tools == "openai") or "none" in (reasoning, tools)
]
PARSERS = {pair: parsers_of("", *pair) for pair in PAIRS if pair != ("none", "none")}
TAGS = ("<function=clock>", "</function>", "<parameter=city>", "</parameter>", "<think>", "</think>", "[THINK]")
MARKERS = sorted({marker for pair in PARSERS for marker in markers_of(*pair)} | set(TAGS))
WORDS = (
    "get_weather", "clock", "(", ")", "city=", "'a'", "[", "]", ",", ";", ":", "{", "}", "\n", " ", "\n\n", "```json",
    "```", "function", "functions.clock:0", " to=functions.clock", "commentary", "analysis", "final", "assistant",
    '{"name": "clock", "arguments": ', '{"name": "clock", "parameters": {}}', '"arguments"', '"name"', "null",
    "é🎉\\u00e9",
)  # fmt: skip
PROMPTS = ("", "<think>\n", "</think>", "x<|start|>assistant", "<|start|>assistant<|channel|>analysis<|message|>a")
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DUMPED = st.builds(lambda value, plain: json.dumps(value, ensure_ascii=plain), JSON, st.booleans())
BROKEN = st.builds(lambda text, at: text[: at % (len(text) + 1)], DUMPED, st.integers(0, 50))
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
FRAGMENTS = st.sampled_from(MARKERS) | st.sampled_from(WORDS) | DUMPED | BROKEN | st.text(max_size=6)


def spoiled(text: str, start: int, end: int, inside: str) -> str:
    """Return an example with a part replaced."""
    first, last = sorted((start % (len(text) + 1), end % (len(text) + 1)))
    return text[:first] + inside + text[last:]


EXAMPLE_TEXTS = st.sampled_from([example.text for example in EXAMPLES.values()])
TEXTS = (
    st.lists(FRAGMENTS, max_size=14).map("".join)
    | st.lists(EXAMPLE_TEXTS | FRAGMENTS, max_size=3).map("".join)
    | st.builds(spoiled, EXAMPLE_TEXTS, st.integers(0, 300), st.integers(0, 300), FRAGMENTS | st.just(""))
)
EACH = st.sampled_from(sorted(PARSERS)).map(PARSERS.__getitem__)
CHATS = st.sampled_from([CHAT, chat_with(WEATHER, CLOCK, parallel_tool_calls=False), chat_with()])
# What may be given to nobody beside markers: brackets and spaces, and the words of gpt-oss's headers.
AROUND = re.compile(r"[\s\]]")
HEADER = re.compile(r"[\w\s.:/=-]")


def parts(text: str, positions: list[int]) -> list[str]:
    """Return `text` cut at these positions."""
    cuts = sorted({position % (len(text) + 1) for position in positions})
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=400, deadline=None)
@given(EACH, CHATS, TEXTS, st.lists(st.integers(0, 400), max_size=30), st.sampled_from(PROMPTS))
def test_any_text(parsers: AnswerParsers, chat: Any, text: str, positions: list[int], prompt: str) -> None:
    cut = parts(text, positions)
    pieces = pieces_of(parsers, cut, chat, prompt)
    assert raw_of(pieces) == text
    answer, whole = answer_of(parsers, cut, chat, prompt), answer_of(parsers, [text], chat, prompt)
    assert answer_of(parsers, list(text), chat, prompt).content == answer.content
    assert (answer.content, answer.reasoning, answer.calls) == (whole.content, whole.reasoning, whole.calls)
    assert answer.content == raw_of(pieces, Kind.CONTENT)
    assert answer.reasoning == raw_of(pieces, Kind.REASONING)
    assert chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls") or len(answer.calls) <= 1


@settings(max_examples=300, deadline=None)
@given(EACH, CHATS, TEXTS)
def test_markers_are_all_that_is_given_to_nobody(parsers: AnswerParsers, chat: Any, text: str) -> None:
    ungiven = raw_of(pieces_of(parsers, [text], chat), Kind.MARKER)
    for marker in MARKERS:
        ungiven = ungiven.replace(marker, "")
    assert not (HEADER if "open" in parsers.reasoning + parsers.tools else AROUND).sub("", ungiven)


@settings(max_examples=100, deadline=None)
@given(OBJECTS, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_arguments_come_as_they_were_written(value: Any, plain: bool, separators: tuple[str, str]) -> None:
    arguments = json.dumps(value, ensure_ascii=plain, separators=separators)
    for example in EXAMPLES.values():
        if (
            '{"city": "Paris"}' not in example.text
            or ("get_weather", '{"city": "Paris"}') not in example.expected.calls
        ):
            continue
        text = example.text.replace('{"city": "Paris"}', arguments)
        answer = answer_of(example.parsers, [text], CHAT, example.prompt)
        expected = [(name, given.replace('{"city": "Paris"}', arguments)) for name, given in example.expected.calls]
        assert answer.calls == expected
        assert answer.content == example.expected.content

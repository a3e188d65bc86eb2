"""Every form's examples, whole and cut at every character."""

import pytest

from router_service.protocol import inference_pb2 as pb
from tests.unit.front.parsing.answers import CHAT, WEATHER, Answer, answer_of, chat_with, cut, pieces_of, raw_of
from tests.unit.front.parsing.examples import EXAMPLES, Example

EACH = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())


def check(example: Example, pieces: list[str]) -> None:
    answer = answer_of(example.parsers, pieces, CHAT, example.prompt)
    if not example.expected.ids:
        answer.ids = []
    assert answer == example.expected


@EACH
def test_whole(example: Example) -> None:
    check(example, [example.text])


@EACH
def test_cut_at_every_character(example: Example) -> None:
    for position in range(1, len(example.text)):
        check(example, [example.text[:position], example.text[position:]])


@EACH
def test_in_small_pieces(example: Example) -> None:
    for step in (1, 2, 3, 5, 8):
        check(example, cut(example.text, step))


@EACH
def test_nothing_is_lost(example: Example) -> None:
    for step in (1, 3, len(example.text)):
        assert raw_of(pieces_of(example.parsers, cut(example.text, step), CHAT, example.prompt)) == example.text


@EACH
def test_without_tools_calls_are_text(example: Example) -> None:
    for chat in (chat_with(), chat_with(WEATHER, tool_choice=pb.ToolChoice(mode=pb.ToolChoice.NONE))):
        answer = answer_of(example.parsers, cut(example.text, 1), chat, example.prompt)
        assert not answer.calls
        if not example.expected.reasoning and "<|channel|>" not in example.prompt + example.text:
            assert answer == Answer(example.text)

"""How answers look: on a terminal, without colours, and in a pipe."""

import io

import pytest

from cluster.cli.client.chat.screen import Screen, wants_colours
from router_service.protocol import inference_pb2 as pb

ANSWER = (
    pb.GenerateResponse(reasoning="hm "),
    pb.GenerateResponse(reasoning="ok"),
    pb.GenerateResponse(text="Yes"),
    pb.GenerateResponse(text=".", tool_calls=[pb.ToolCallDelta(index=0, id="a", name="look")]),
    pb.GenerateResponse(tool_calls=[pb.ToolCallDelta(index=0, arguments='{"at": 1}')]),
    pb.GenerateResponse(tool_calls=[pb.ToolCallDelta(index=1, id="b", name="go", arguments="{}")]),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(out: io.StringIO, *responses: pb.GenerateResponse, note: str = "", **options: bool) -> str:
    screen = Screen(out, **({"colours": False, "reasoning": True} | options))
    for response in responses:
        screen.show(response)
    screen.end(note)
    return out.getvalue()


def test_reasoning_is_dimmed_and_calls_have_a_line_each() -> None:
    text = shown(Terminal(), *ANSWER, colours=True, note="cut")
    lines = ("\x1b[2mhm ok", "Yes.", '\x1b[36m-> look {"at": 1}', "\x1b[36m-> go {}", "\x1b[2m[cut]", "")
    assert text.split("\x1b[0m\n") == list(lines)


def test_without_colours_the_parts_have_headings() -> None:
    assert shown(Terminal(), *ANSWER[:3]) == "(reasoning)\nhm ok\n(answer)\nYes\n"
    assert shown(Terminal(), ANSWER[2]) == "Yes\n"


def test_a_line_is_ended_once() -> None:
    parts = (pb.GenerateResponse(reasoning="hm\n"), pb.GenerateResponse(text="Yes\n"), ANSWER[4])
    assert shown(Terminal(), *parts, note="cut") == '(reasoning)\nhm\n(answer)\nYes\n-> {"at": 1}\n[cut]\n'


def test_reasoning_may_be_left_out() -> None:
    assert shown(io.StringIO(), *ANSWER[:3], reasoning=False) == "Yes\n"


def test_each_answer_begins_anew() -> None:
    screen = Screen(out := io.StringIO(), colours=False, reasoning=True)
    for responses in (ANSWER[:3], ANSWER[2:3]):
        for response in responses:
            screen.show(response)
        screen.end()
    assert out.getvalue() == "(reasoning)\nhm ok\n(answer)\nYes\nYes\n"


def test_a_model_cannot_speak_to_the_terminal() -> None:
    evil = pb.GenerateResponse(text="a\x1b[2J\r\x9b\ttab\nline \u4f60\u200d\U0001f44d")
    assert shown(Terminal(), evil) == "a\\x1b[2J\\r\\x9b\ttab\nline \u4f60\u200d\U0001f44d\n"
    assert shown(io.StringIO(), evil) == f"{evil.text}\n"


@pytest.mark.parametrize(
    ("out", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals(out: io.StringIO, environment: dict[str, str], wanted: bool) -> None:
    assert wants_colours(out, environment) is wanted

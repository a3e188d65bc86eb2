"""What comes while an answer streams, and what the request says of its calls."""

import re

import pytest

from router_service.front.parsing.answer_parsers import parsers_of
from router_service.front.parsing.tape import Kind
from router_service.protocol import inference_pb2 as pb
from tests.unit.front.parsing.answers import CHAT, CLOCK, WEATHER, Answer, answer_of, chat_with, pieces_of, raw_of
from tests.unit.front.parsing.examples import ASSISTANT, EXAMPLES, HERMES_OSLO, HERMES_PARIS, PARIS

ONE_CALL = chat_with(WEATHER, CLOCK, parallel_tool_calls=False)
JSON_FORMS = ["hermes: text and two calls", "deepseek v3", "deepseek v3.1", "kimi", "mistral: a list", "mistral: names"]
JSON_FORMS += ["llama: JSON", "harmony: a preamble and a call"]


@pytest.mark.parametrize("name", JSON_FORMS)
def test_arguments_come_as_they_are_generated(name: str) -> None:
    example = EXAMPLES[name]
    parser = example.parsers.open(CHAT, example.prompt)
    assert parser is not None
    position = example.text.index("Paris") + 3
    parsed = parser.push(example.text[:position])
    assert [(call.index, call.name) for call in parsed.calls if call.name] == [(0, "get_weather")]
    assert "".join(call.arguments for call in parsed.calls) == '{"city": "Par'
    assert parser.called
    assert "".join(call.arguments for call in parser.push(example.text[position : position + 1]).calls) == "i"


def test_a_text_argument_of_xml_comes_as_it_is_generated() -> None:
    parser = parsers_of("", "none", "qwen3_coder").open(CHAT, "")
    assert parser is not None
    parsed = parser.push('<tool_call>\n<function=get_weather>\n<parameter=city>\nA "b')
    assert "".join(call.arguments for call in parsed.calls) == '{"city": "A \\"b'


def test_content_comes_at_once() -> None:
    for example in EXAMPLES.values():
        parser = example.parsers.open(CHAT, "</think>")
        if parser is not None:
            assert parser.push("Hello").content == "Hello"


def test_text_of_an_answer_in_json_comes_at_once() -> None:
    parser = parsers_of("", "none", "llama3_json").open(CHAT, "")
    assert parser is not None
    assert parser.push('{"answer": 4').content == '{"answer": 4'


@pytest.mark.parametrize(
    ("reasoning", "prompt", "within", "behind"),
    [
        ("qwen3", "", "<think>a", "</think>"),
        ("qwen3", "<think>\n", "", "</think>"),
        ("deepseek_r1", "", "a", "</think>"),
        ("mistral", "", "[THINK]", "[/THINK]"),
        ("openai_gptoss", ASSISTANT, "<|channel|>analysis<|message|>", "<|end|>"),
        ("openai_gptoss", ASSISTANT + "<|channel|>analysis<|message|>", "", "<|end|>"),
    ],
)
def test_it_says_where_it_is(reasoning: str, prompt: str, within: str, behind: str) -> None:
    parser = parsers_of("", reasoning, "none").open(chat_with(), prompt)
    assert parser is not None
    parser.push(within)
    assert parser.reasoning
    parser.push(behind[:-1])
    assert parser.reasoning
    parser.push(behind[-1])
    assert not parser.reasoning


def test_only_the_first_call_where_one_is_asked_for() -> None:
    text = f"{HERMES_PARIS}\n{HERMES_OSLO}\nDone."
    parsers = parsers_of("", "none", "hermes")
    answer = answer_of(parsers, [text], ONE_CALL)
    assert (answer.content, answer.calls) == ("\nDone.", [PARIS])
    assert raw_of(pieces_of(parsers, [text], ONE_CALL), Kind.LEFT_OUT).strip() == HERMES_OSLO
    assert len(answer_of(parsers, [text], chat_with(WEATHER, parallel_tool_calls=True)).calls) == 2


def test_ids() -> None:
    text = f"{HERMES_PARIS}{HERMES_OSLO}"
    ids = answer_of(parsers_of("", "none", "hermes"), [text]).ids
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", id) for id in ids)
    mistral = EXAMPLES["mistral: names"]
    ids = answer_of(mistral.parsers, [mistral.text]).ids
    assert re.fullmatch(r"[A-Za-z0-9]{9}", ids[0])
    assert ids[1] == "abcdefghi"


def test_no_parser_where_all_is_content() -> None:
    without = pb.Chat()
    assert parsers_of("", "none", "hermes").open(without, "") is None
    assert parsers_of("", "none", "openai").open(without, "") is None
    assert parsers_of("", "qwen3", "hermes").open(without, "<think>\n\n</think>\n\n") is None
    assert parsers_of("", "qwen3", "hermes").open(without, "") is not None


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("<think>\nHm", " so</think>x", Answer("x", " so")),
        ("<think>\nHm\n</think>\n\nHel", "lo", Answer("lo")),
        ("assistant\nHel", "lo", Answer("lo")),
    ],
)
def test_a_message_that_goes_on(prompt: str, text: str, expected: Answer) -> None:
    for name in ("qwen3", "deepseek_r1"):
        chat = pb.Chat(continue_final_message=True)
        assert answer_of(parsers_of("", name, "none"), [text], chat, prompt) == expected


def test_a_turn_that_goes_on_behind_a_tools_answer() -> None:
    """DeepSeek-V3.1's prompt ends in that answer; what a user writes of tags does not count."""
    parsers, asked = parsers_of("", "deepseek_r1", "none"), pb.Message(role="user", content="What is </think>?")
    chat = pb.Chat(messages=[asked, pb.Message(role="tool", parts=[pb.ContentPart(text="A </think>")])])
    prompt = "User: What is </think>? Assistant:</think>calls, tool: A </think>..."
    assert answer_of(parsers, ["A tag."], chat, prompt) == Answer("A tag.")
    assert answer_of(parsers, ["Hm"], chat, prompt.replace(":</think>calls", ":calls")) == Answer("", "Hm")


def test_a_tag_behind_much_whitespace_is_text() -> None:
    parsers = parsers_of("", "qwen3", "none")
    for spaces, reasoning in ((64, "a"), (65, "")):
        text = " " * spaces + "<think>a"
        for pieces in ([text], list(text)):
            assert answer_of(parsers, pieces).reasoning == reasoning


def test_harmony_with_one_of_its_parsers() -> None:
    example = EXAMPLES["harmony: a preamble and a call"]
    reasoning = answer_of(parsers_of("", "openai_gptoss", "none"), [example.text], CHAT, ASSISTANT)
    assert (reasoning.reasoning, reasoning.calls) == ("Look.", [])
    assert reasoning.content.startswith("I look.<|start|>assistant<|channel|>commentary to=functions.get_weather")
    calls = answer_of(parsers_of("", "none", "openai"), [example.text], CHAT, ASSISTANT)
    assert (calls.content, calls.calls) == ("<|channel|>analysis<|message|>Look.<|end|>I look.", [PARIS])


def test_time_is_linear_in_hostile_texts() -> None:
    """Each would take minutes, were it read again from each of its markers on."""
    hostile = [
        '<tool_call>{"name": "clock", "arguments": ',
        "<tool_call>",
        '{"a":',
        "[",
        " \n",
        "<|channel|>",
        "9",
        "[TOOL_CALLS][",
    ]
    for example in {(one.reasoning, one.tools): one for one in EXAMPLES.values()}.values():
        for text in hostile:
            answer = answer_of(example.parsers, [text * (100_000 // len(text))])
            assert answer.content or answer.reasoning or answer.calls

"""Bound answers: the grammars compile, take what models write, refuse the rest, and what they take is parsed."""

import json
import random
from dataclasses import dataclass

import jsonschema
import pytest

from router_service.front.errors import RequestError
from router_service.front.parsing.answer_parsers import AnswerParsers, parsers_of
from router_service.front.parsing.choice import TOOL_NAMES
from router_service.front.parsing.forms import markers_of
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured
from router_service.text.json_tokenizer import JsonTokenizer
from tests.unit.front.parsing.answers import CLOCK, WEATHER, answer_of, chat_with
from tests.unit.front.parsing.examples import ASSISTANT, EXAMPLES
from tests.unit.front.parsing.grammar_world import accepts, tokenizer_with, walk

REQUIRED = chat_with(WEATHER, CLOCK, tool_choice=pb.ToolChoice(mode=pb.ToolChoice.REQUIRED))
ONE = chat_with(WEATHER, CLOCK, tool_choice=REQUIRED.tool_choice, parallel_tool_calls=False)
NAMED = chat_with(WEATHER, CLOCK, tool_choice=pb.ToolChoice(mode=pb.ToolChoice.NAMED, name="get_weather"))
PARIS = '{"city": "Paris"}'
# A call of each form, %s being the arguments.
SINGLE = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
    "</tool_call>",
    "llama3_json": '{"name": "get_weather", "parameters": %s}',
    "llama4_pythonic": '[get_weather(city="Paris")]',
    "mistral": "[TOOL_CALLS]get_weather[ARGS]%s",
    "openai": "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>%s",
}
DEEPSEEK = ("deepseek v3", "deepseek v3.1", "kimi")


@dataclass(frozen=True)
class Form:
    """A model's parsers over a tokenizer whose markers are special tokens, or are not."""

    parsers: AnswerParsers
    tokenizer: JsonTokenizer

    def accepts(self, chat: pb.Chat, text: str, prompt: str = "") -> bool:
        bound = self.parsers.bound(chat, None, prompt)
        assert bound is not None
        return accepts(self.tokenizer, bound, text)


def form_of(reasoning: str, tools: str, special: bool = True) -> Form:
    """Return a form."""
    tokenizer = tokenizer_with(
        *markers_of(*("" if name == "none" else name for name in (reasoning, tools))), special=special
    )
    return Form(parsers_of("", reasoning, tools, tokenizer=tokenizer), tokenizer)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", SINGLE)
def test_a_call_that_is_required(name: str, special: bool) -> None:
    form, prompt = form_of("none", name, special), ASSISTANT if name == "openai" else ""
    text = SINGLE[name].replace("%s", PARIS)
    if name == "mistral" and not special:
        text = f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}]'
    for chat in (REQUIRED, ONE, NAMED):
        assert form.accepts(chat, text, prompt)
        assert answer_of(form.parsers, [text], chat, prompt).calls == [("get_weather", PARIS)]
        for wrong in (
            "Hello",
            text[:-1],
            text.replace("city", "town"),
            text.replace("get_weather", "get_time"),
            "x" + text,
        ):
            assert not form.accepts(chat, wrong, prompt), wrong


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("example", DEEPSEEK)
def test_calls_in_a_section(example: str, special: bool) -> None:
    given = EXAMPLES[example]
    form = form_of("none", given.tools, special)
    text = given.text.removeprefix("Weather.</think>").removeprefix("Let me see.").removeprefix("I look.")
    assert form.accepts(REQUIRED, text)
    assert answer_of(form.parsers, [text], REQUIRED).calls == given.expected.calls
    assert not form.accepts(ONE, text)
    assert not form.accepts(NAMED, text)
    assert not form.accepts(REQUIRED, text.replace('Paris"', 'Paris", "days": "two"'))
    assert not form.accepts(REQUIRED, text.replace("clock", "get_weather"))


@pytest.mark.parametrize(
    ("name", "separator"), [("hermes", "\n"), ("qwen3_coder", "\n"), ("llama3_json", "; "), ("mistral", "")]
)
def test_several_calls(name: str, separator: str) -> None:
    form = form_of("none", name)
    call = SINGLE[name].replace("%s", PARIS)
    text = separator.join([call, call, call])
    assert form.accepts(REQUIRED, text)
    assert len(answer_of(form.parsers, [text], REQUIRED).calls) == 3
    assert not form.accepts(ONE, text)
    assert not form.accepts(NAMED, text)


def test_python_arguments() -> None:
    form = form_of("none", "llama4_pythonic")
    text = '[get_weather(city="a", options={"wind": true}), clock(), get_weather(city="b", days=3)]'
    assert form.accepts(REQUIRED, text)
    assert answer_of(form.parsers, [text], REQUIRED).calls == [
        ("get_weather", '{"city": "a", "options": {"wind": true}}'),
        ("clock", "{}"),
        ("get_weather", '{"city": "b", "days": 3}'),
    ]
    for wrong in ("[get_weather()]", '[get_weather(city="a", )]', "[get_weather(days=3)]", "[clock(a=1)]", "[]"):
        assert not form.accepts(REQUIRED, wrong)
    optional = {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}}
    chat = chat_with(optional, tool_choice=REQUIRED.tool_choice)
    for right in ("f()", "f(a=1)", "f(b=null)", "f(a=1, b=null)"):
        assert form.accepts(chat, f"[{right}]")
    assert not form.accepts(chat, "[f(, b=null)]")


def test_xml_arguments() -> None:
    form = form_of("none", "qwen3_coder")
    properties = {"kind": {"type": "string", "enum": ["a", "b"]}, "deep": {"$ref": "#/$defs/deep"}}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": ["kind"],
        "$defs": {"deep": {"type": "integer"}},
    }
    chat = chat_with({"name": "f", "parameters": parameters}, tool_choice=REQUIRED.tool_choice)
    text = "<tool_call>\n<function=f>\n<parameter=kind>\nb\n</parameter>\n<parameter=deep>\n5\n</parameter>\n"
    text += "</function>\n</tool_call>"
    assert form.accepts(chat, text)
    assert answer_of(form.parsers, [text], chat).calls == [("f", '{"kind": "b", "deep": 5}')]
    assert not form.accepts(chat, text.replace("\nb\n", "\nc\n"))
    assert not form.accepts(chat, text.replace("5", "x"))


@pytest.mark.parametrize("special", [True, False])
def test_calls_behind_reasoning(special: bool) -> None:
    form = form_of("qwen3", "hermes", special)
    call = SINGLE["hermes"].replace("%s", PARIS)
    within = f"Hm.\n <tool </think>\n\n{call}"
    assert form.accepts(REQUIRED, within, "<think>\n")
    assert answer_of(form.parsers, [within], REQUIRED, "<think>\n").calls == [("get_weather", PARIS)]
    assert not form.accepts(REQUIRED, call, "<think>\n")
    assert form.accepts(REQUIRED, call, "<think>\n\n</think>\n\n")
    assert not form.accepts(REQUIRED, within, "<think>\n\n</think>\n\n")
    assert form.accepts(REQUIRED, call)
    assert form.accepts(REQUIRED, f"<think>{within}")


def test_a_call_of_gpt_oss_behind_reasoning() -> None:
    form = form_of("openai_gptoss", "openai")
    text = f"<|channel|>analysis<|message|>Look.<|end|><|start|>assistant{SINGLE['openai'].replace('%s', PARIS)}"
    assert form.accepts(REQUIRED, text, ASSISTANT)
    answer = answer_of(form.parsers, [text], REQUIRED, ASSISTANT)
    assert (answer.reasoning, answer.calls) == ("Look.", [("get_weather", PARIS)])


SCHEMA = Structured("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}')
FORMS = {
    "schema": (SCHEMA, '{"a": 1}', '{"a": "1"}'),
    "regex": (Structured("regex", r"a/b\/[c/]{2}\n"), "a/b/c/\n", "a/b/c\n"),
    "alternatives": (Structured("regex", "one|two"), "two", "three"),
    "grammar": (Structured("grammar", 'start: "{" x+ "}"\nx: /b{2}/ | "}" // {'), "{bb}bb}", "{b}"),
}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", FORMS)
def test_a_form_behind_reasoning(kind: str, special: bool) -> None:
    structured, right, wrong = FORMS[kind]
    form, chat = form_of("qwen3", "hermes", special), chat_with(WEATHER)
    bound = form.parsers.bound(chat, structured, "<think>\n")
    assert bound is not None
    assert accepts(form.tokenizer, bound, f"Hm.\n</think>{right}")
    for text in (f"Hm.\n</think>{wrong}", right, "Hm.", f"Hm.\n</think>{right}{right}"):
        assert not accepts(form.tokenizer, bound, text)
    assert form.parsers.bound(chat, structured, "</think>\n\n") is structured


def test_a_form_of_gpt_oss() -> None:
    form = form_of("openai_gptoss", "openai")
    bound = form.parsers.bound(chat_with(), SCHEMA, ASSISTANT)
    assert bound is not None
    final = '<|channel|>final<|message|>{"a": 1}'
    assert accepts(form.tokenizer, bound, final)
    assert accepts(form.tokenizer, bound, f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{final}")
    assert not accepts(form.tokenizer, bound, '{"a": 1}')
    assert form.parsers.bound(chat_with(), SCHEMA, ASSISTANT + "<|channel|>final<|message|>") is SCHEMA


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_as_many_tools_as_a_request_may_have(name: str) -> None:
    functions = [{**WEATHER, "name": f"weather_{number}"} for number in range(127)]
    chat = chat_with(WEATHER, *functions, tool_choice=REQUIRED.tool_choice)
    assert not form_of("none", name).accepts(chat, "Hello", ASSISTANT)


# gpt-oss's markers are tokens always: as text, they would end its reasoning wherever it has them.
@pytest.mark.parametrize(
    ("name", "special"),
    [(name, special) for name in TOOL_NAMES for special in (True, False) if special or name != "openai"],
)
def test_whatever_is_accepted_is_calls(name: str, special: bool) -> None:
    """Draw tokens as a model without any sense would."""
    reasoning = "openai_gptoss" if name == "openai" else "qwen3"
    # A closing tag that is no token never comes by chance.
    form, prompt = form_of(reasoning, name, special), ASSISTANT if name == "openai" else "" if special else "</think>"
    weather, clock = json.loads(json.dumps([WEATHER, CLOCK]))
    if name == "qwen3_coder":
        # Nor does the tag behind a text.
        weather["parameters"]["properties"]["city"]["enum"] = ["Paris", "Oslo"]
    chat = chat_with(weather, clock, tool_choice=REQUIRED.tool_choice)
    schemas = {function["name"]: function["parameters"] for function in (weather, clock)}
    closing = {form.tokenizer.id_of(character) for character in '"}<\\n'}
    for seed in range(20):
        draw = random.Random(seed)

        def choose(allowed: list[int], draw: random.Random = draw) -> int:
            written = [id for id in allowed if form.tokenizer.bytes_of(id) < b"\x7f"]
            ends = [id for id in written if id in closing]
            return draw.choice(ends if ends and draw.random() < 0.3 else written or allowed)

        bound = form.parsers.bound(chat, None, prompt)
        assert bound is not None
        text = walk(form.tokenizer, bound, choose)
        answer = answer_of(form.parsers, [text], chat, prompt)
        assert not answer.content.strip()
        assert bool(answer.calls) == bool(text)
        for called, arguments in answer.calls:
            jsonschema.validate(json.loads(arguments), schemas[called])


def test_nothing_to_bind() -> None:
    parsers = parsers_of("", "none", "hermes")
    assert parsers.bound(chat_with(WEATHER), None, "") is None
    assert parsers.bound(chat_with(WEATHER), SCHEMA, "") is SCHEMA
    assert parsers_of("", "qwen3", "none").bound(chat_with(), SCHEMA, "</think>") is SCHEMA
    broken = Structured("json_schema", "{")
    assert parsers_of("", "qwen3", "none").bound(chat_with(), broken, "<think>") is broken


def test_a_call_that_no_form_has() -> None:
    for chat in (REQUIRED, NAMED):
        with pytest.raises(RequestError, match=r"chat\.tool_choice: the model's chat template calls no tools"):
            parsers_of("", "none", "none").bound(chat, None, "")


def test_every_form_is_bound() -> None:
    assert {*SINGLE, *(EXAMPLES[name].tools for name in DEEPSEEK)} == set(TOOL_NAMES)

"""Answers as the models' makers show their forms, and what a client gets of them."""

from dataclasses import dataclass

from router_service.front.parsing.answer_parsers import AnswerParsers, parsers_of
from tests.unit.front.parsing.answers import Answer

BAR = "\uff5c"
PARIS = ("get_weather", '{"city": "Paris"}')
OSLO = ("get_weather", '{"city": "Oslo", "days": 3}')
CLOCK = ("clock", "{}")
HERMES_PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HERMES_OSLO = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'


@dataclass(frozen=True)
class Example:
    """An answer of a model with these parsers, behind a prompt, and what it is."""

    reasoning: str
    tools: str
    text: str
    expected: Answer
    prompt: str = ""

    @property
    def parsers(self) -> AnswerParsers:
        """Its parsers."""
        return parsers_of("", self.reasoning, self.tools)


def deepseek(text: str) -> str:
    """Return `text` with DeepSeek's markers for short ones."""
    for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep"):
        text = text.replace(f"<{name}>", f"<{BAR}tool▁{name}{BAR}>")
    return text


QWEN = {
    "qwen: reasoning and text": Example(
        "qwen3", "hermes", "<think>\nEasy.\n</think>\n\nHello!", Answer("\n\nHello!", "\nEasy.\n")
    ),
    "qwen: thinking switched off": Example(
        "qwen3", "hermes", "Hello!", Answer("Hello!"), prompt="<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "qwen: the prompt opens the reasoning": Example(
        "qwen3", "hermes", "Hm.\n</think>\n\nYes.", Answer("\n\nYes.", "Hm.\n"), prompt="assistant\n<think>\n"
    ),
    "qwen: cut within the reasoning": Example("qwen3", "none", "<think>\nEasy", Answer("", "\nEasy")),
    "qwen: reasoning and a call": Example(
        "qwen3", "hermes", f"<think>\nLook.\n</think>\n\n{HERMES_PARIS}", Answer("", "\nLook.\n", [PARIS])
    ),
    "hermes: text and two calls": Example(
        "none", "hermes", f"I look.\n{HERMES_PARIS}\n{HERMES_OSLO}\n", Answer("I look.\n", "", [PARIS, OSLO])
    ),
    "hermes: arguments first, on one line": Example(
        "none",
        "hermes",
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
        Answer("", "", [PARIS]),
    ),
    "hermes: text behind a call": Example("none", "hermes", f"{HERMES_PARIS}\n Done.", Answer("\n Done.", "", [PARIS])),
    "hermes: cut within the arguments": Example(
        "none", "hermes", HERMES_PARIS[:62], Answer("", "", [("get_weather", '{"city": "Par')])
    ),
    "hermes: a marker in an argument": Example(
        "none",
        "hermes",
        '<tool_call>{"name": "clock", "arguments": {"a": "</tool_call>\\" é"}}</tool_call>',
        Answer("", "", [("clock", '{"a": "</tool_call>\\" é"}')]),
    ),
    "hermes: no JSON": Example(
        "none", "hermes", "<tool_call>\nclock()\n</tool_call>", Answer("<tool_call>\nclock()\n</tool_call>")
    ),
    "hermes: no name": Example(
        "none", "hermes", '<tool_call>{"arguments": {}}</tool_call>', Answer('<tool_call>{"arguments": {}}</tool_call>')
    ),
    "hermes: arguments that are none": Example(
        "none",
        "hermes",
        '<tool_call>{"name": "clock", "arguments": [1]}</tool_call>',
        Answer('<tool_call>{"name": "clock", "arguments": [1]}</tool_call>'),
    ),
    "hermes: arguments that break": Example(
        "none",
        "hermes",
        '<tool_call>{"name": "clock", "arguments": {"a": 1,}}</tool_call>!',
        Answer("!", "", [("clock", '{"a": 1,}}')]),
    ),
    "hermes: cut before the arguments": Example(
        "none", "hermes", 'So: <tool_call>\n{"name": "clo', Answer('So: <tool_call>\n{"name": "clo')
    ),
    "hermes: half a marker": Example("none", "hermes", "a <tool_ca", Answer("a <tool_ca")),
    "hermes: a brace is missing": Example(
        "none",
        "hermes",
        f'<tool_call>{{"name": "clock", "arguments": {{}}</tool_call>\n{HERMES_PARIS}',
        Answer("", "", [CLOCK, PARIS]),
    ),
    "hermes: a tag is missing": Example(
        "none",
        "hermes",
        f'<tool_call>{{"name": "clock", "arguments": {{}}}}\n{HERMES_PARIS}',
        Answer("", "", [CLOCK, PARIS]),
    ),
    "coder: two calls": Example(
        "none",
        "qwen3_coder",
        'Well.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nNew\n"York"\n</parameter>\n'
        '<parameter=days>\n3\n</parameter>\n<parameter=options>\n{"wind": true}\n</parameter>\n</function>\n'
        "</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
        Answer(
            "Well.\n",
            "",
            [("get_weather", '{"city": "New\\n\\"York\\"", "days": 3, "options": {"wind": true}}'), CLOCK],
        ),
    ),
    "coder: no tag, a value of Python, an unknown argument": Example(
        "none",
        "qwen3_coder",
        "<function=get_weather><parameter=options>{'wind': True}</parameter><parameter=x>5</parameter></function>",
        Answer("", "", [("get_weather", '{"options": {"wind": true}, "x": "5"}')]),
    ),
    "coder: cut within an argument": Example(
        "none",
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar",
        Answer("", "", [("get_weather", '{"city": "Par')]),
    ),
}
MARKED = {
    "deepseek v3": Example(
        "none",
        "deepseek_v3",
        deepseek(
            'Let me see.<calls▁begin><call▁begin>function<sep>get_weather\n```json\n{"city": "Paris"}\n```<call▁end>\n'
            "<call▁begin>function<sep>clock\n```json\n{}\n```<call▁end><calls▁end>"
        ),
        Answer("Let me see.", "", [PARIS, CLOCK]),
    ),
    "deepseek r1: no opening tag": Example(
        "deepseek_r1", "none", "Hm.\n</think>\n\nYes.", Answer("\n\nYes.", "Hm.\n"), prompt=f"<{BAR}Assistant{BAR}>"
    ),
    "deepseek r1: with it": Example(
        "deepseek_r1", "none", "<think>\nHm.\n</think>\n\nYes.", Answer("\n\nYes.", "\nHm.\n")
    ),
    "deepseek v3.1": Example(
        "deepseek_r1",
        "deepseek_v31",
        deepseek(
            'Weather.</think>I look.<calls▁begin><call▁begin>get_weather<sep>{"city": "Paris"}<call▁end>'
            "<call▁begin>clock<sep>{}<call▁end><calls▁end>"
        ),
        Answer("I look.", "Weather.", [PARIS, CLOCK]),
        prompt=f"<{BAR}Assistant{BAR}><think>",
    ),
    "deepseek v3.1 without thinking": Example(
        "deepseek_r1", "deepseek_v31", "<Hello", Answer("<Hello"), prompt=f"<{BAR}Assistant{BAR}></think>"
    ),
    "deepseek: no name": Example(
        "none",
        "deepseek_v31",
        deepseek("<calls▁begin><call▁begin><sep>{}"),
        Answer(deepseek("<calls▁begin><call▁begin><sep>{}")),
    ),
    "kimi": Example(
        "none",
        "kimi_k2",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        Answer("I look.", "", [PARIS, CLOCK], ["functions.get_weather:0", "functions.clock:1"]),
    ),
    "kimi: calls end the reasoning": Example(
        "kimi_k2",
        "kimi_k2",
        "<think>Look<|tool_calls_section_begin|><|tool_call_begin|>clock<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        Answer("", "Look", [CLOCK], ["functions.clock:0"]),
    ),
    "kimi: no call in the section": Example(
        "none",
        "kimi_k2",
        "<|tool_calls_section_begin|>?<|tool_calls_section_end|>",
        Answer("<|tool_calls_section_begin|>?<|tool_calls_section_end|>"),
    ),
}
OTHERS = {
    "mistral: a list": Example(
        "none",
        "mistral",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "clock", "arguments": {}, '
        '"id": "abcdefghi"}]',
        Answer("", "", [PARIS, CLOCK]),
    ),
    "mistral: names": Example(
        "mistral",
        "mistral",
        '[THINK]Look.[/THINK]I look.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]clock[CALL_ID]abcdefghi'
        "[ARGS]{}",
        Answer("I look.", "Look.", [PARIS, CLOCK]),
    ),
    "mistral: no call": Example("none", "mistral", "[TOOL_CALLS] [1]", Answer("[TOOL_CALLS] [1]")),
    "llama: JSON": Example(
        "none", "llama3_json", '{"name": "get_weather", "parameters": {"city": "Paris"}}', Answer("", "", [PARIS])
    ),
    "llama: a marker and two": Example(
        "none",
        "llama3_json",
        '<|python_tag|>{"type": "function", "name": "clock", "parameters": {}}; {"name": "get_weather", "parameters": '
        '{"city": "Paris"}}',
        Answer("", "", [CLOCK, PARIS]),
    ),
    "llama: JSON that is no call": Example(
        "none", "llama3_json", '{"name": "Peter", "parameters": {}}', Answer('{"name": "Peter", "parameters": {}}')
    ),
    "llama: text": Example("none", "llama3_json", " Hello {}.", Answer(" Hello {}.")),
    "pythonic": Example(
        "none",
        "llama4_pythonic",
        "[get_weather(city='Paris'), get_weather(city=\"Oslo\", days=3), clock()]",
        Answer("", "", [PARIS, OSLO, CLOCK]),
    ),
    "pythonic: markers and nested values": Example(
        "none",
        "llama4_pythonic",
        "<|python_start|>[get_weather(city=\"a, (b]\\\"\", options={'wind': True, 'x': [None, -1.5, (2,)]})]"
        "<|python_end|>",
        Answer("", "", [("get_weather", '{"city": "a, (b]\\"", "options": {"wind": true, "x": [null, -1.5, [2]]}}')]),
    ),
    "pythonic: text": Example("none", "llama4_pythonic", "[1, 2] is a list", Answer("[1, 2] is a list")),
    "pythonic: no value": Example("none", "llama4_pythonic", "[clock(a=b)]", Answer("[clock(a=b)]")),
}
ASSISTANT = "<|start|>user<|message|>Hi<|end|><|start|>assistant"
HARMONY = {
    "harmony: reasoning and text": Example(
        "openai_gptoss",
        "openai",
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>",
        Answer("Hello!", "Easy."),
        ASSISTANT,
    ),
    "harmony: a preamble and a call": Example(
        "openai_gptoss",
        "openai",
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris"}<|call|>',
        Answer("I look.", "Look.", [PARIS]),
        ASSISTANT,
    ),
    "harmony: the recipient first, no end": Example(
        "openai_gptoss",
        "openai",
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}',
        Answer("", "", [PARIS]),
        ASSISTANT,
    ),
    "harmony: continued": Example(
        "openai_gptoss",
        "openai",
        "llo!",
        Answer("llo!"),
        ASSISTANT + "<|channel|>final<|message|>He",
    ),
    "harmony: cut within the reasoning": Example(
        "openai_gptoss", "none", "<|channel|>analysis<|message|>Ea", Answer("", "Ea"), ASSISTANT
    ),
    "harmony: text only": Example("openai_gptoss", "openai", "Hello, you.", Answer("Hello, you."), ASSISTANT),
    "harmony: a marker in an argument": Example(
        "openai_gptoss",
        "openai",
        '<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{"a": "<|end|>"}\n<|call|>',
        Answer("", "", [("clock", '{"a": "<|end|>"}')]),
        ASSISTANT,
    ),
    "harmony: arguments that are none": Example(
        "openai_gptoss",
        "openai",
        "<|channel|>commentary to=functions.clock<|message|>now<|call|>",
        Answer("<|channel|>commentary to=functions.clock<|message|>now<|call|>"),
        ASSISTANT,
    ),
}
EXAMPLES = QWEN | MARKED | OTHERS | HARMONY

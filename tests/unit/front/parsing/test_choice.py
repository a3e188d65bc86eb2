"""Which parsers a family and its chat template get."""

import re

import pytest

from router_service.front.parsing.answer_parsers import parsers_of
from router_service.front.parsing.choice import REASONING_NAMES, TOOL_NAMES
from tests.unit.front.parsing.examples import deepseek
from tests.unit.front.parsing.grammar_world import tokenizer_with

TOOLS = "{% if tools %}"
QWEN = TOOLS + "<tool_call>{{ call }}</tool_call>"
DEEPSEEK = TOOLS + deepseek("<calls▁begin>")


@pytest.mark.parametrize(
    ("family", "template", "reasoning", "tools"),
    [
        ("qwen3_moe", QWEN + "<think>", "qwen3", "hermes"),
        ("qwen2_moe", "{{ messages }}", "", ""),
        ("qwen2_moe", QWEN, "", "hermes"),
        ("qwen3_moe", QWEN + "<function=", "", "qwen3_coder"),
        ("deepseek_v3", DEEPSEEK + "```json", "", "deepseek_v3"),
        ("deepseek_v3", DEEPSEEK + "```json{{ content.split('</think>') }}", "deepseek_r1", "deepseek_v3"),
        ("deepseek_v3", DEEPSEEK + "<think>", "deepseek_r1", "deepseek_v31"),
        ("deepseek_v3", TOOLS + "<|tool_calls_section_begin|>", "", "kimi_k2"),
        ("deepseek_v3", TOOLS + "<|tool_calls_section_begin|><think>", "kimi_k2", "kimi_k2"),
        ("mixtral", TOOLS + "[TOOL_CALLS]", "", "mistral"),
        ("mixtral", "[INST]", "", ""),
        ("mistral4", TOOLS + "[TOOL_CALLS][THINK]", "mistral", "mistral"),
        ("llama4", TOOLS + '{"name": function name, "parameters": {}}', "", "llama3_json"),
        ("llama4", TOOLS + "[func_name1(params_name1=params_value1)]", "", "llama4_pythonic"),
        ("gpt_oss", TOOLS + "<|channel|>", "openai_gptoss", "openai"),
        ("olmoe", "{{ messages }}", "", ""),
        ("glm4_moe", TOOLS + "<tool_call><arg_key><think>", "qwen3", ""),
        ("other", TOOLS + '"parameters":', "", ""),
        ("qwen3_moe", "", "", ""),
    ],
)
def test_by_the_template(family: str, template: str, reasoning: str, tools: str) -> None:
    parsers = parsers_of(family, template=template)
    assert (parsers.reasoning, parsers.tools) == (reasoning, tools)


def test_by_name() -> None:
    for name in TOOL_NAMES:
        assert parsers_of("other", "none", name).tools == name
    for name in REASONING_NAMES:
        assert parsers_of("other", name, "none").reasoning == name
    parsers = parsers_of("qwen3_moe", "none", "none", QWEN + "<think>")
    assert (parsers.reasoning, parsers.tools) == ("", "")


@pytest.mark.parametrize(
    ("reasoning", "tools", "words"),
    [
        (
            "auto",
            "herms",
            f"front.tool_parser: there is no 'herms', must be one of auto, none, {', '.join(TOOL_NAMES)}",
        ),
        (
            "qwen",
            "auto",
            f"front.reasoning_parser: there is no 'qwen', must be one of auto, none, {', '.join(REASONING_NAMES)}",
        ),
        ("qwen3", "openai", "tool_parser: 'openai' does not go with the reasoning_parser 'qwen3'"),
        ("openai_gptoss", "hermes", "tool_parser: 'hermes' does not go with the reasoning_parser 'openai_gptoss'"),
    ],
)
def test_names_that_are_wrong(reasoning: str, tools: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parsers_of("qwen3_moe", reasoning, tools)


def test_markers_that_are_special_tokens() -> None:
    tokenizer = tokenizer_with("[TOOL_CALLS]", "[THINK]", "[INST]")
    parsers = parsers_of("mixtral", template=TOOLS + "[TOOL_CALLS][THINK]", tokenizer=tokenizer)
    assert parsers.marker_ids == {tokenizer.id_of("[TOOL_CALLS]"), tokenizer.id_of("[THINK]")}
    unmarked = parsers_of("qwen3_moe", template=QWEN, tokenizer=tokenizer_with("<tool_call>", special=False))
    assert unmarked.marker_ids == frozenset()

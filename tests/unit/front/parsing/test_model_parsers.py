"""The parsers that a Front opens for its model."""

from dataclasses import replace

import pytest

from router_service.front.config import FrontConfig
from router_service.front.parsing.model_parsers import model_parsers
from router_service.text.chat import ChatTemplate
from router_service.text.text_model import TextModel

TOOL_USE = (
    "{% if tools %}<tool_call>{{ tools }}{% endif %}{% for message in messages %}{{ message.content }}{% endfor %}"
)


def test_they_follow_from_all_templates(text: TextModel) -> None:
    plain = text.chat
    assert plain is not None
    assert (model_parsers("qwen3_moe", text, FrontConfig()).tools) == ""
    both = ChatTemplate({**plain.sources, "tool_use": TOOL_USE}, {})
    assert model_parsers("qwen3_moe", replace(text, chat=both), FrontConfig()).tools == "hermes"


def test_a_model_without_a_template_has_those_that_are_named(text: TextModel) -> None:
    bare = replace(text, chat=None)
    auto, named = FrontConfig(), FrontConfig(reasoning_parser="qwen3", tool_parser="hermes")
    assert [(one.reasoning, one.tools) for one in (model_parsers("mixtral", bare, each) for each in (auto, named))] == [
        ("", ""),
        ("qwen3", "hermes"),
    ]


def test_a_name_that_there_is_not_is_refused(text: TextModel) -> None:
    with pytest.raises(ValueError, match="tool_parser: there is no 'nope', must be one of auto, none, hermes"):
        model_parsers("qwen3_moe", text, FrontConfig(tool_parser="nope"))

"""The Python client's keyword arguments as a request."""

import json
from typing import Any

import pytest

from router_service.client.fields import request_of, tool_choice_of
from router_service.protocol import inference_pb2 as pb

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
MESSAGES = [{"role": "user", "content": "hi"}]


def test_each_field_has_its_place() -> None:
    request = request_of(
        None,
        None,
        MESSAGES,
        {
            "tools": [TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "documents": [{"title": "a"}],
            "template_kwargs": {"enable_thinking": False},
            "add_generation_prompt": False,
            "continue_final_message": True,
            "n": 3,
            "echo": True,
            "truncate_prompt_tokens": 7,
            "allow_special_tokens": True,
            "raw_output": True,
            "fallback": "drop",
            "priority": -3,
            "seed": 5,
            "top_k": -1,
            "json_schema": {"type": "object"},
        },
    )
    chat = pb.Chat(
        messages=[pb.Message(role="user", content="hi")],
        tools=[json.dumps(TOOL)],
        tool_choice=pb.ToolChoice(mode=pb.ToolChoice.REQUIRED),
        parallel_tool_calls=False,
        documents=['{"title": "a"}'],
        template_kwargs='{"enable_thinking": false}',
        add_generation_prompt=False,
        continue_final_message=True,
    )
    sampling = pb.Sampling(seed=5, top_k=-1, json_schema='{"type": "object"}')
    assert request == pb.GenerateRequest(
        chat=chat,
        sampling=sampling,
        n=3,
        echo=True,
        truncate_prompt_tokens=7,
        allow_special_tokens=True,
        raw_output=True,
        fallback=pb.DROP,
        priority=-3,
    )


def test_what_is_not_given_is_not_set() -> None:
    assert request_of("hello", None, None, {}) == pb.GenerateRequest(prompt="hello", sampling=pb.Sampling())
    assert request_of(None, [1, 2], None, {"tools": []}).tokens.ids == [1, 2]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", pb.ToolChoice(mode=pb.ToolChoice.AUTO)),
        ("none", pb.ToolChoice(mode=pb.ToolChoice.NONE)),
        ("required", pb.ToolChoice(mode=pb.ToolChoice.REQUIRED)),
        ("look", pb.ToolChoice(mode=pb.ToolChoice.NAMED, name="look")),
        ({"function": {"name": "auto"}}, pb.ToolChoice(mode=pb.ToolChoice.NAMED, name="auto")),
    ],
)
def test_the_choice_of_a_tool(choice: Any, expected: pb.ToolChoice) -> None:
    assert tool_choice_of(choice) == expected


@pytest.mark.parametrize(
    ("inputs", "fields", "message"),
    [
        ({}, {}, "give exactly one of prompt, tokens, messages"),
        ({"prompt": "a", "messages": MESSAGES}, {}, "give exactly one"),
        ({"prompt": "a"}, {"tools": [TOOL]}, "tools: only a conversation has it"),
        ({"prompt": "a"}, {"fallback": "never"}, "fallback must be one of wait"),
        ({"prompt": "a"}, {"temprature": 1.0}, "temprature: there is no such field"),
        ({"prompt": "a"}, {"regex": "a", "choice": ["b"]}, "give at most one of regex, choice"),
        ({"messages": MESSAGES}, {"tool_choice": {"name": "look"}}, "tool_choice: must be like"),
        ({"messages": [{"role": 1}]}, {}, "role: must be a text"),
    ],
)
def test_a_wrong_value_is_named(inputs: dict[str, Any], fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request_of(inputs.get("prompt"), inputs.get("tokens"), inputs.get("messages"), fields)

"""What a chat of the API becomes for a template, and what is refused, by the name of its field."""

import json
from typing import Any

import pytest

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of
from router_service.text.chats.conversation import Traits, conversation_of
from router_service.text.chats.template_fields import ChatFieldError, template_kwargs_of

USER = pb.Message(role="user", content="u")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
EVERYTHING = frozenset(("system", "developer", "user", "assistant", "tool"))
BOTH = Traits(text_roles=frozenset())


def tool(**function: object) -> str:
    return json.dumps({"type": "function", "function": {"name": "f"} | function})


def call(arguments: str = "{}", name: str = "f") -> pb.ToolCall:
    return pb.ToolCall(id="1", name=name, arguments=arguments)


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "chat.messages: at least one message is required"),
        ({"messages": [USER, pb.Message(role="robot")]}, r"chat.messages\[1\].role: must be one of .*'robot'"),
        ({"messages": [pb.Message(role="user", tool_calls=[call()])]}, r"messages\[0\].tool_calls: only an assistant"),
        (
            {"messages": [pb.Message(role="assistant", tool_calls=[call("[1]")])]},
            r"chat.messages\[0\].tool_calls\[0\].arguments: must be a JSON object, got '\[1\]'",
        ),
        ({"messages": [pb.Message(role="assistant", tool_calls=[call("{")])]}, "arguments: must be a JSON object, got"),
        ({"messages": [pb.Message(role="assistant", tool_calls=[call(name="")])]}, r"calls\[0\].name: must not be"),
        (
            {"messages": [pb.Message(role="user", content="a", parts=[pb.ContentPart(type="text", text="b")])]},
            r"chat.messages\[0\].parts: excludes content",
        ),
        (
            {"messages": [pb.Message(role="user", parts=[pb.ContentPart(type="image_url")])]},
            r"chat.messages\[0\].parts\[0\].type: must be text, which is all that the model takes, got 'image_url'",
        ),
        ({"tools": ["[]"]}, r"chat.tools\[0\]: must be a JSON object, got '\[\]'"),
        ({"tools": [tool(), "{"]}, r"chat.tools\[1\]: must be a JSON object, got '{'"),
        ({"tools": ['{"type": "search"}']}, r"""chat.tools\[0\].type: must be "function", got 'search'"""),
        ({"tools": ['{"type": "function"}']}, r"chat.tools\[0\].function: must be an object with a name, got None"),
        ({"tools": [tool(), tool(name="g"), tool(name=1)]}, r"chat.tools\[2\].function.name: must be a text of 1 to"),
        ({"tools": [tool(name="")]}, r"chat.tools\[0\].function.name: must be a text of 1 to 256 characters, got ''"),
        ({"tools": [tool(name="a b")]}, r"chat.tools\[0\].function.name: may have letters, digits, .*, got 'a b'"),
        ({"tools": [tool(), tool()]}, r"chat.tools\[1\].function.name: is the name of a tool before it, 'f'"),
        ({"tools": [tool(parameters=[])]}, r"chat.tools\[0\].function.parameters: must be a JSON Schema, an object"),
        ({"tools": [tool(description=3)]}, r"chat.tools\[0\].function.description: must be a text, got 3"),
        ({"tools": [tool()] * 129}, "chat.tools: at most 128 tools, got 129"),
        ({"tools": [tool(parameters={"a": "\ud800"})]}, r"chat.tools\[0\]: has half a surrogate pair"),
        ({"documents": ["3"]}, r"chat.documents\[0\]: must be a JSON object, got '3'"),
        ({"documents": [deep(200)]}, r"chat.documents\[0\]: nests deeper than 100 levels"),
        ({"documents": [deep(100_000)]}, r"chat.documents\[0\]: nests deeper than 100 levels"),
        ({"documents": ['{"a": NaN}']}, r"chat.documents\[0\]: must be a JSON object, .*NaN is no JSON"),
        ({"template_kwargs": "[]"}, "chat.template_kwargs: must be a JSON object"),
        ({"template_kwargs": '{"messages": []}'}, "chat.template_kwargs: messages is no variable of the template"),
        ({"template_kwargs": '{"a": 1, "tools": 1}'}, "chat.template_kwargs: tools is no variable of the template"),
        ({"template_kwargs": '{"eos_token": ""}'}, "chat.template_kwargs: eos_token is no variable of the template"),
        ({"tool_choice": pb.ToolChoice(mode=pb.ToolChoice.REQUIRED)}, "chat.tool_choice: needs tools"),
        (
            {"tools": [tool()], "tool_choice": pb.ToolChoice(mode=pb.ToolChoice.NAMED, name="g")},
            "chat.tool_choice.name: must be a tool of the request, got 'g'",
        ),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "chat.continue_final_message: excludes add_generation_prompt",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ChatFieldError, match=message):
        conversation_of(pb.Chat(**{"messages": [USER]} | fields), BOTH, reserved=["eos_token"])


def test_all_that_a_message_may_have() -> None:
    said = {
        "role": "assistant",
        "content": "c",
        "name": "n",
        "reasoning_content": "r",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": [2]}'}}],
    }
    answer = {"role": "tool", "content": [{"type": "text", "text": "t"}], "name": "f", "tool_call_id": "1"}
    made = conversation_of(chat_of([said, answer], [TOOL]), BOTH)
    called = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2]}}}]
    assert made.messages == [said | {"tool_calls": called, "thinking": "r"}, answer]
    assert list(made.messages[0]["tool_calls"][0]["function"]["arguments"]) == ["b", "a"]
    assert made.tools == [TOOL]
    assert (made.documents, made.add_generation_prompt, made.continue_final_message) == (None, True, False)


def test_what_a_template_takes_otherwise() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    calls = [{"function": {"name": "f", "arguments": '{"x":  1}'}}]
    chat = chat_of([{"role": "user", "content": parts}, {"role": "assistant", "tool_calls": calls}])
    made = conversation_of(chat, Traits(arguments_text=True, no_content="null"))
    assert made.messages[0]["content"] == "a\nb"
    assert made.messages[1]["content"] is None
    assert made.messages[1]["tool_calls"][0]["function"]["arguments"] == '{"x":  1}'
    made = conversation_of(chat_of([{"role": "user", "content": "a"}]), Traits(frozenset(), EVERYTHING))
    assert made.messages == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


def test_a_template_without_developers_is_told_of_a_system() -> None:
    chat = chat_of([{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}])
    assert conversation_of(chat, Traits(developer=False)).messages[0]["role"] == "system"
    assert conversation_of(chat, Traits(developer=True)).messages[0]["role"] == "developer"
    # Of which it also takes what it takes.
    parts = frozenset(["system"])
    made = conversation_of(chat, Traits(frozenset(), parts, developer=False)).messages[0]
    assert made == {"role": "system", "content": [{"type": "text", "text": "d"}]}


def test_roles_that_the_template_names() -> None:
    chat = chat_of([{"role": "control", "content": "thinking"}])
    assert conversation_of(chat, Traits(more_roles=frozenset(["control"]))).messages[0]["role"] == "control"


@pytest.mark.parametrize("mode", [pb.ToolChoice.AUTO, pb.ToolChoice.NONE, pb.ToolChoice.REQUIRED])
def test_no_tools_are_told_where_none_may_be_called(mode: pb.ToolChoice.Mode) -> None:
    chat = chat_of([{"role": "user", "content": "u"}], [TOOL])
    chat.tool_choice.mode = mode
    assert conversation_of(chat, BOTH).tools == (None if mode == pb.ToolChoice.NONE else [TOOL])


def test_variables_of_a_request_override_the_servers() -> None:
    chat = pb.Chat(messages=[USER], template_kwargs='{"b": 3, "c": {"z": 1, "a": 2}}')
    made = conversation_of(chat, BOTH, {"a": 1, "b": 2})
    assert made.kwargs == {"a": 1, "b": 3, "c": {"z": 1, "a": 2}}
    assert list(made.kwargs["c"]) == ["z", "a"]
    assert template_kwargs_of("") == {}

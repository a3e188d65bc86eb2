"""The conversation of a request, up to what its template is given."""

import json
from typing import Any

from google.protobuf.message import DecodeError

from router_service.protocol import inference_pb2 as pb
from router_service.text.chats.conversation import Conversation, Traits, conversation_of
from router_service.text.chats.template_fields import ChatFieldError, strings_mapped
from router_service.text.special_text import SpecialTexts, unmarked
from tests.fuzz.target import Target

FORMS = (
    Traits(),
    Traits(frozenset(), frozenset(["user", "tool"]), arguments_text=True, no_content="null", developer=False),
)
SPECIAL = SpecialTexts({"<|im_start|>": 1, "<|im_end|>": 2, "[INST]": 3})


def read_chat(data: bytes) -> None:
    """As `render_chat` does: what is accepted is JSON, and has no special token that is whole."""
    chat = pb.Chat.FromString(data)
    for traits in FORMS:
        conversation = conversation_of(chat, traits, {"enable_thinking": False}, ["eos_token"])
        marked, mark = SPECIAL.marked(conversation)
        for made, was in zip(given(marked), given(conversation), strict=True):
            assert SPECIAL.split(json.dumps(made, ensure_ascii=False), mark) == [json.dumps(was, ensure_ascii=False)]
            assert strings_mapped(made, lambda text, mark=mark: unmarked(text, mark)) == was


def given(conversation: Conversation) -> list[Any]:
    return [conversation.messages, conversation.tools, conversation.documents, conversation.kwargs]


def _chats() -> tuple[bytes, ...]:
    call = pb.ToolCall(id="1", name="f", arguments='{"a<|im_end|>": [1, null, "x"]}')
    tool = '{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}'
    full = pb.Chat(
        messages=[
            pb.Message(role="developer", content="be <|im_start|>"),
            pb.Message(role="user", parts=[pb.ContentPart(type="text", text="a"), pb.ContentPart(type="text")]),
            pb.Message(role="assistant", tool_calls=[call], reasoning_content="r<|"),
            pb.Message(role="tool", content="t", name="f", tool_call_id="1"),
        ],
        tools=[tool],
        tool_choice=pb.ToolChoice(mode=pb.ToolChoice.NAMED, name="f"),
        documents=['{"text": "[INST]\\ufdd3"}'],
        template_kwargs='{"reasoning_effort": "high"}',
    )
    short = pb.Chat(messages=[pb.Message(role="user", content="<|im_end|>")], continue_final_message=True)
    return full.SerializeToString(), short.SerializeToString()


TARGETS = (Target("chat", _chats(), read_chat, (DecodeError, ChatFieldError), 2),)

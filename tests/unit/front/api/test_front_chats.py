"""Chats through the service: what reaches the model, and what is refused before a template's process is taken."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.text.chat import ChatTemplate
from router_service.text.text_model import TextModel
from tests.unit.front.front_fakes import SPECIALS
from tests.unit.front.front_world import World

END = SPECIALS.index("<|im_end|>")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SOURCE = "{{ tools | tojson }}{{ enable_thinking }}{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>"


@pytest.fixture
async def stub(world: World, text: TextModel) -> AsyncIterator[Any]:
    world.text = replace(text, chat=ChatTemplate(SOURCE, {}, {"enable_thinking": "server"}))
    await world.router()
    client = await world.front()
    await client.wait_ready(10)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        yield InferenceStub(channel)


def saying(content: str, **fields: Any) -> dict[str, Any]:
    chat = chat_of([{"role": "user", "content": content}], fields.pop("tools", ()))
    chat.MergeFrom(pb.Chat(**fields.pop("chat", {})))
    return {"chat": chat} | fields


async def prompt_of(stub: Any, world: World, **fields: Any) -> list[int]:
    """What the model reads, which is also what Tokenize says."""
    request = pb.GenerateRequest(**fields, sampling=pb.Sampling(max_tokens=1))
    [_ async for _ in stub.Generate(request)]
    prompt = list(world.routers[0].submits[-1].prompt)
    assert list((await stub.Tokenize(pb.TokenizeRequest(**fields))).ids) == prompt
    return prompt


async def test_special_tokens_of_a_callers_text(stub: Any, world: World) -> None:
    hostile = "a<|im_end|>b"
    assert (await prompt_of(stub, world, **saying(hostile))).count(END) == 1
    assert (await prompt_of(stub, world, **saying(hostile, allow_special_tokens=True))).count(END) == 2
    assert (await prompt_of(stub, world, prompt=hostile)).count(END) == 1
    assert (await prompt_of(stub, world, prompt=hostile, allow_special_tokens=False)).count(END) == 0


async def test_tools_and_variables_reach_the_template(stub: Any, world: World) -> None:
    async def text_of(**fields: Any) -> str:
        return world.text.tokenizer.decode(await prompt_of(stub, world, **fields))

    assert await text_of(**saying("u")) == "nullserveru"
    kwargs = {"template_kwargs": '{"enable_thinking": 1}'}
    tool = '[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]'
    assert await text_of(**saying("u", tools=[TOOL], chat=kwargs)) == f"{tool}1u"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (saying("u", chat={"tools": ["{}"]}), 'chat.tools[0].type: must be "function", got None'),
        (saying("u", chat={"template_kwargs": "3"}), "chat.template_kwargs: must be a JSON object, got '3'"),
        ({"chat": chat_of([{"role": "robot", "content": "u"}])}, "chat.messages[0].role: must be one of system,"),
        (saying("a" * 2_000_000), "chat.messages: has 2000000 characters, at most "),
    ],
)
async def test_a_wrong_field_is_named(stub: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [_ async for _ in stub.Generate(pb.GenerateRequest(**fields))]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(message)

"""The `openai` library, unchanged, against a Front."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest

from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import call

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    _, caller = await call(world)
    async with caller, openai.AsyncOpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_models(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["tiny"]
    assert (await client.models.retrieve("tiny")).owned_by == "expertmesh"
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        await client.models.retrieve("gpt-4o")


async def test_a_chat(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=5, temperature=0)
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 3


async def test_a_streamed_chat(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    stream = await client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_completions(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="tiny", prompt="hello world", max_tokens=3, logprobs=1)
    choice = reply.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    stream = await client.completions.create(model="tiny", prompt="hello world", max_tokens=3, stream=True)
    pieces = [chunk async for chunk in stream]
    assert "".join(piece.choices[0].text for piece in pieces) == choice.text
    assert pieces[-1].choices[0].finish_reason == "length"


async def test_errors_are_those_of_the_library(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=99999)
    assert refused.value.param == "max_completion_tokens"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert missing.value.code == "model_not_found"


async def test_the_synchronous_client(world: World) -> None:
    _, caller = await call(world)

    def ask() -> str | None:
        with openai.OpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=0) as client:
            reply = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4)  # type: ignore[call-overload]
            stream = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, stream=True)  # type: ignore[call-overload]
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert streamed == reply.choices[0].message.content
            return streamed

    async with caller:
        assert await asyncio.to_thread(ask)

"""The Responses API of the `openai` library, unchanged, against a Front."""

import asyncio

import openai
import pytest
from pydantic import BaseModel

from tests.unit.front.front_world import World
from tests.unit.front.openai.responses.answering import CALLS, THINKS, at, library

TOOL = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(BaseModel):
    name: str
    age: int


async def test_a_response(world: World) -> None:
    async with library(world, THINKS) as client:
        response = await client.responses.create(
            model="tiny", input="2 + 2?", instructions="be brief", store=True, metadata={"a": "b"}, user="me"
        )
    assert response.output_text == "It is 4."
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.metadata, response.user, response.instructions) == ({"a": "b"}, "me", "be brief")
    assert response.model_dump()["store"] is False
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    prompt = world.text.tokenizer.decode(world.routers[0].submits[0].prompt, False)
    assert prompt.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n2 + 2?")


async def test_what_came_out_goes_in_again(world: World) -> None:
    """The loop of an agent: output items are input items of the next turn."""
    async with library(world, THINKS + CALLS) as client:
        first = await client.responses.create(model="tiny", input="add", tools=[TOOL])
        calls = [item for item in first.output if item.type == "function_call"]
        assert [(call.name, call.arguments) for call in calls] == [("add", '{"a": 2, "b": 2}'), ("show", "{}")]
        outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "4"} for call in calls]
        items = [{"role": "user", "content": "add"}, *first.output, *outputs]
        second = await client.responses.create(model="tiny", input=items, tools=[TOOL])
    assert second.status == "completed"
    prompt = world.text.tokenizer.decode(world.routers[0].submits[1].prompt, False)
    assert "It is 4." in prompt
    assert prompt.count("<|im_start|>tool\n4") == 2


async def test_the_streaming_helper(world: World) -> None:
    async with (
        library(world, THINKS + CALLS) as client,
        client.responses.stream(model="tiny", input="hi", tools=[TOOL]) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output[2].parsed_arguments == {"a": 2, "b": 2}
    text = [event for event in events if event.type == "response.output_text.delta"]
    assert text[-1].snapshot == "It is 4."
    arguments = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert arguments[-1].snapshot == "{}"
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert thought == "two and two"
    assert events[-1].type == "response.completed"


async def test_structured_output_by_pydantic(world: World) -> None:
    async with library(world, '{"name": "Ann", "age": 7}') as client:
        response = await client.responses.parse(model="tiny", input="who?", text_format=Person)
        assert response.output_parsed == Person(name="Ann", age=7)
        async with client.responses.stream(model="tiny", input="who?", text_format=Person) as stream:
            final = await stream.get_final_response()
        assert final.output_parsed == Person(name="Ann", age=7)
    structured = world.routers[0].submits[0].sampling.structured
    assert structured is not None
    assert structured.kind == "json_schema"
    assert '"age"' in structured.text


async def test_plain_events(world: World) -> None:
    async with library(world, "hello you", finish="length") as client:
        stream = await client.responses.create(
            model="tiny", input="hi", stream=True, include=["message.output_text.logprobs"], top_logprobs=1
        )
        events = [event async for event in stream]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == "hello you"
    assert all(type(event).__name__ != "BaseModel" for event in events)


async def test_errors(world: World) -> None:
    async with library(world) as client:
        with pytest.raises(openai.BadRequestError, match="responses are not stored here") as refused:
            await client.responses.create(model="tiny", input="hi", previous_response_id="resp_1")
        assert refused.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError, match="responses are not stored here"):
            await client.responses.retrieve("resp_1")
        with pytest.raises(openai.NotFoundError, match="responses are not stored here"):
            await client.responses.delete("resp_1")
        with pytest.raises(openai.BadRequestError, match="this server runs no tools"):
            await client.responses.create(model="tiny", input="hi", tools=[{"type": "web_search"}])


async def test_the_synchronous_client(world: World) -> None:
    async with at(world, THINKS) as caller:

        def ask() -> tuple[str, str]:
            with openai.OpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=0) as client:
                whole = client.responses.create(model="tiny", input="hi")
                with client.responses.stream(model="tiny", input="hi") as stream:
                    streamed = stream.until_done().get_final_response()
                return whole.output_text, streamed.output_text

        assert await asyncio.to_thread(ask) == ("It is 4.", "It is 4.")

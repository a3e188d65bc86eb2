"""The events of /v1/responses, one by one, as they are on the wire."""

import json
from typing import Any

import grpc
import pytest

from router_service.protocol.messages import StreamFailure
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, error_in
from tests.unit.front.openai.responses.answering import CALLS, THINKS, at

Event = dict[str, Any]


async def events_of(caller: Caller, **body: object) -> list[Event]:
    """The events of an answer; each names its type twice, and they are numbered."""
    async with caller.session.post("/v1/responses", json={"input": "hi", "stream": True} | body) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        lines = [part.split("\n") for part in (await response.text()).split("\n\n") if part]
    events = [json.loads(data.removeprefix("data: ")) for _, data in lines]
    assert [f"event: {event['type']}" for event in events] == [name for name, _ in lines]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def types_of(events: list[Event]) -> list[str]:
    """Types without `response.`, one of each run of deltas."""
    types = [event["type"].removeprefix("response.") for event in events]
    return [kind for place, kind in enumerate(types) if place == 0 or kind != types[place - 1]]


MESSAGE = [
    *("output_item.added", "content_part.added", "output_text.delta"),
    *("output_text.done", "content_part.done", "output_item.done"),
]
REASONING = [kind.replace("output_text", "reasoning_text") for kind in MESSAGE]
CALL = [
    *("output_item.added", "function_call_arguments.delta"),
    *("function_call_arguments.done", "output_item.done"),
]


async def test_a_message(world: World) -> None:
    async with at(world, "hello you") as caller:
        events = await events_of(caller, metadata={"a": "b"}, instructions="be brief")
    assert types_of(events) == ["created", "in_progress", *MESSAGE, "completed"]
    begun, ended = events[0]["response"], events[-1]["response"]
    assert (begun["status"], begun["output"], begun["usage"]) == ("in_progress", [], None)
    assert begun == events[1]["response"]
    assert {event["item_id"] for event in events if "item_id" in event} == {ended["output"][0]["id"]}
    assert "".join(event["delta"] for event in events if "delta" in event) == "hello you"
    assert ended["output"] == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    part = {"type": "output_text", "text": "hello you", "annotations": [], "logprobs": []}
    assert ended["output"][0]["content"] == [part]
    assert (ended["status"], ended["store"], ended["metadata"]) == ("completed", False, {"a": "b"})
    assert ended["usage"]["total_tokens"] == ended["usage"]["input_tokens"] + ended["usage"]["output_tokens"]
    assert ended["usage"]["input_tokens_details"]["cached_tokens"] == 3


async def test_reasoning_comes_before_the_message(world: World) -> None:
    async with at(world, THINKS) as caller:
        events = await events_of(caller)
        whole = await caller.post("/v1/responses", input="hi")
    assert types_of(events) == ["created", "in_progress", *REASONING, *MESSAGE, "completed"]
    reasoning, message = events[-1]["response"]["output"]
    assert (reasoning["type"], message["type"]) == ("reasoning", "message")
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "two and two"}]
    assert reasoning["summary"] == []
    assert message["content"][0]["text"] == "It is 4."
    assert [event["output_index"] for event in events if "output_index" in event][-1] == 1
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert shape(whole["output"]) == shape(events[-1]["response"]["output"])


def shape(items: list[Event]) -> list[Event]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


async def test_calls_come_one_after_the_other(world: World) -> None:
    tools = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("add", "show")]
    async with at(world, "I add." + CALLS) as caller:
        events = await events_of(caller, tools=tools)
        whole = await caller.post("/v1/responses", input="hi", tools=tools)
    assert types_of(events) == ["created", "in_progress", *MESSAGE, *CALL, *CALL, "completed"]
    _, add, show = events[-1]["response"]["output"]
    assert (add["name"], json.loads(add["arguments"]), add["status"]) == ("add", {"a": 2, "b": 2}, "completed")
    assert (add["call_id"], show["call_id"]) == ("call-0", "call-1")
    deltas = [event for event in events if event["type"].endswith("arguments.delta")]
    assert "".join(one["delta"] for one in deltas if one["item_id"] == add["id"]) == add["arguments"]
    assert shape(whole["output"]) == shape(events[-1]["response"]["output"])
    assert events[-1]["response"]["tools"] == tools


async def test_an_answer_at_its_limit_is_incomplete(world: World) -> None:
    async with at(world, "hello you", finish="length") as caller:
        events = await events_of(caller, max_output_tokens=50)
    ended = events[-1]
    assert ended["type"] == "response.incomplete"
    assert ended["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (ended["response"]["status"], ended["response"]["max_output_tokens"]) == ("incomplete", 50)
    assert ended["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("code", "word"), [("INTERNAL", "server_error"), ("RESOURCE_EXHAUSTED", "rate_limit_exceeded")]
)
async def test_a_failure_is_the_last_event(world: World, code: str, word: str) -> None:
    async with at(world, "hello you", failure=StreamFailure(code, "it broke")) as caller:
        events = await events_of(caller)
    assert events[-1]["type"] == "response.failed"
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]) == ("failed", {"code": word, "message": "it broke"})


async def test_log_probabilities_come_with_the_text(world: World) -> None:
    include = ["message.output_text.logprobs"]
    async with at(world, "hello you") as caller:
        events = await events_of(caller, include=include, top_logprobs=1)
    told = [one for event in events if event["type"].endswith("output_text.delta") for one in event["logprobs"]]
    ended = events[-1]["response"]["output"][0]["content"][0]
    assert told == ended["logprobs"]
    assert "".join(one["token"] for one in told) == "hello you"
    assert all(len(one["top_logprobs"]) == 1 for one in told)


async def test_an_answer_of_nothing_is_an_empty_message(world: World) -> None:
    async with at(world, "<|im_end|>") as caller:
        events = await events_of(caller)
        whole = await caller.post("/v1/responses", input="hi")
    assert [event["type"] for event in events][2:4] == ["response.output_item.added", "response.content_part.added"]
    assert whole["output"][0]["content"][0]["text"] == ""


async def test_refusals_have_their_status(world: World) -> None:
    async with at(world) as caller:
        for body, status, param in (
            ({"previous_response_id": "r"}, 400, "previous_response_id"),
            ({"max_output_tokens": 99999}, 400, "max_output_tokens"),
            ({"input": [{"role": "robot", "content": ""}]}, 400, "input[0].role"),
            ({"model": "gpt-4o"}, 404, "model"),
            ({"input": 1}, 400, "input"),
            ({"temperature": -1}, 400, "temperature"),
        ):
            for stream in (False, True):
                answer = await caller.refused("/v1/responses", **{"input": "x", "stream": stream} | body)
                assert (answer[0], answer[1]["param"]) == (status, param), answer


@pytest.mark.parametrize("method", ["get", "delete", "post"])
async def test_nothing_is_stored(world: World, method: str) -> None:
    async with at(world) as caller, getattr(caller.session, method)("/v1/responses/resp_1/cancel") as response:
        assert response.status == 404
        assert "responses are not stored here" in error_in(await response.json())["message"]


async def test_a_client_that_leaves_ends_its_answer(world: World) -> None:
    async with at(world, "hello you " * 300) as caller:
        response = await caller.session.post("/v1/responses", json={"input": "hi", "stream": True})
        await response.content.readline()
        assert world.server.streams == 1
        response.close()
        await until(lambda: world.server.streams == 0 and not world.routers[0].running)


async def test_codes_are_grpcs(world: World) -> None:
    """Before the first event a failure has its own status."""
    async with at(world, "", failure=StreamFailure(grpc.StatusCode.RESOURCE_EXHAUSTED.name, "full")) as caller:
        status, error = await caller.refused("/v1/responses", input="x", stream=True)
    assert (status, error["message"]) == (429, "full")

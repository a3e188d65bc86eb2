"""Generations of the page: the same answers as gRPC's, token by token, with routing and scores."""

from collections.abc import Iterator

import pytest

from router_service.protocol.messages import StreamFailure, StreamOutput, Submit
from tests.unit.front.calls import collect, ids_of, text_of
from tests.unit.front.degraded import degraded_from
from tests.unit.front.front_fakes import refuse, until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Event, browse
from tests.unit.front.page.routed import routed


def tokens_of(events: list[Event], generated: bool) -> list[dict[str, object]]:
    return [t for kind, data in events if kind == "tokens" and data["generated"] is generated for t in data["tokens"]]


async def test_tokens_and_text_are_those_of_grpc(world: World) -> None:
    _, browser = await browse(world)
    text = "hello h\u00e9llo \u4f60\u597d <|im_start|>"
    expected = await collect(world.clients[0], text, max_tokens=40, seed=3)
    async with browser:
        events = await browser.generate(prompt=text, max_tokens=40, seed=3)
    answer = tokens_of(events, generated=True)
    assert [token["id"] for token in answer if token["id"] is not None] == ids_of(expected)
    assert "".join(str(token["text"]) for token in answer if "special" not in token) == text_of(expected)
    assert "".join(str(token["text"]) for token in tokens_of(events, generated=False)) == text
    assert (events[-1][0], events[-1][1]["finish"], events[-1][1]["usage"]["generated_tokens"]) == ("end", "length", 40)


async def test_the_answer_names_its_request(world: World) -> None:
    """By the id its lines in the logs of Front and router are found."""
    router, browser = await browse(world)
    async with browser, browser.post("/api/generate", {"prompt": "hello", "max_tokens": 2}) as response:
        await response.read()
    assert response.headers["X-Request-Id"] == router.submits[0].request_id != ""


async def test_degraded_tokens_are_marked(world: World) -> None:
    router, browser = await browse(world, script=degraded_from(2))
    async with browser:
        events = await browser.generate(prompt="hello", max_tokens=4, fallback="drop")
    marks = [token.get("degraded", False) for token in tokens_of(events, generated=True) if token["id"] is not None]
    assert marks == [False, False, True, True]
    assert (router.submits[0].fallback, events[-1][1]["usage"]["degraded_tokens"]) == ("drop", 2)


async def test_routing_and_scores_of_each_position(world: World) -> None:
    router, browser = await browse(world, script=routed)
    async with browser:
        events = await browser.generate(prompt="hello", max_tokens=3)
    positions = [position for kind, data in events if kind == "routing" for position in data]
    assert len(positions) == len(tokens_of(events, generated=False)) + 2
    layer = {"layer": 1, "chosen": [[3, 0.75, 0], [5, 0.25, 1]], "scores": [[3, 0.5], [7, 0.3], [5, 0.2]]}
    assert positions == [[layer]] * len(positions)
    assert (router.submits[0].return_routing, router.submits[0].return_scores) == (True, True)


async def test_others_get_no_scores(world: World) -> None:
    router, _ = await world.serve(script=routed)
    answer = await collect(world.clients[0], "hello", max_tokens=1, return_routing=True)
    assert router.submits[0].return_scores is False
    assert list(answer[-1].routing[0].layers[0].scores) == []


async def test_a_chat_goes_through_the_template(world: World) -> None:
    router, browser = await browse(world)
    async with browser:
        events = await browser.generate(messages=[{"role": "user", "content": "hello"}], max_tokens=1)
    special = [token["text"] for token in tokens_of(events, generated=False) if token.get("special")]
    assert special == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert len(router.submits) == 1


async def test_a_chat_has_all_that_the_api_has(world: World) -> None:
    """History with tool calls, tools, variables of the template: the prompt is that of a gRPC chat."""
    router, browser = await browse(world)
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "fox"},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    async with browser:
        events = await browser.generate(
            messages=messages, tools=tools, template_kwargs={"enable_thinking": False}, max_tokens=2
        )
    expected = await world.clients[0].tokenize(messages=messages)
    assert router.submits[0].prompt == expected == [token["id"] for token in tokens_of(events, generated=False)]


async def test_a_chat_says_what_its_tokens_add(world: World) -> None:
    """Its text comes by itself; the tokens are all of the answer's, and each has its routing."""
    _, browser = await browse(world, script=routed)
    messages = [{"role": "user", "content": "hello"}]
    expected = await collect(world.clients[0], messages=messages, max_tokens=12, seed=3)
    async with browser:
        events = await browser.generate(messages=messages, max_tokens=12, seed=3)
    assert "".join(data.get("text", "") for kind, data in events if kind == "delta") == text_of(expected)
    answer = tokens_of(events, generated=True)
    assert [token["id"] for token in answer if token["id"] is not None] == ids_of(expected)
    positions = sum(len(data) for kind, data in events if kind == "routing")
    assert positions == len(tokens_of(events, generated=False)) + len(ids_of(expected)) - 1


async def test_a_text_has_no_deltas(world: World) -> None:
    _, browser = await browse(world)
    async with browser:
        events = await browser.generate(prompt="hello", max_tokens=4)
    assert {kind for kind, _ in events} == {"tokens", "end"}


@pytest.mark.parametrize(("words", "most"), [(1500, 2), (1, 1025)])
async def test_a_long_chat_goes_on_without_pictures(world: World, words: int, most: int) -> None:
    router, browser = await browse(world, script=routed)
    messages = [{"role": "user", "content": "hello " * words}]
    async with browser:
        events = await browser.generate(messages=messages, max_tokens=most)
    prompt = router.submits[0].prompt
    assert (len(prompt) > 1024) == (words > 1)
    assert events[0] == ("tokens", {"generated": False, "tokens": [], "left_out": len(prompt)})
    assert (router.submits[0].return_routing, router.submits[0].return_scores) == (False, False)
    assert len(tokens_of(events, generated=True)) > 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": ""}, ["prompt", "must not be empty"]),
        ({"prompt": "x", "max_tokens": 0}, ["max_tokens", "1 to 1024", "got 0"]),
        ({"prompt": "x", "max_tokens": "many"}, ["max_tokens", "int"]),
        ({"prompt": "x", "seed": -1}, ["seed", "got -1"]),
        ({"prompt": "x", "fallback": "owl"}, ["fallback", "wait, drop, next_best, fail", "owl"]),
        ({"prompt": "x", "temperature": -1.0}, ["temperature", "got -1"]),
        ({"prompt": "x", "surprise": 1}, ["surprise"]),
        ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, ["prompt", "one of both"]),
        ({"messages": [{"role": "owl", "content": "y"}]}, ["messages[0].role", "owl"]),
        ({"messages": [{"role": "user", "content": 5}]}, ["messages[0].content", "list of objects"]),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, ["messages[0].content[0]", "image_url"]),
        ({"messages": ["hi"]}, ["messages[0]", "object"]),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 40000}, ["max_tokens", "1 to 32768"]),
        ({"prompt": "x", "tools": [{}]}, ["tools", "messages"]),
        ({"prompt": "x", "template_kwargs": {"a": 1}}, ["template_kwargs", "messages"]),
        ({"prompt": "hello " * 2000}, ["prompt", "tokens"]),
        ([1], ["object"]),
    ],
)
async def test_bad_input_is_named(world: World, body: object, words: list[str]) -> None:
    router, browser = await browse(world)
    async with browser:
        status, error = await browser.refused("/api/generate", body)
    assert status == 400
    assert [word for word in words if word not in error] == []
    assert router.submits == []


async def test_a_refusal_before_the_first_token_is_a_status(world: World) -> None:
    _, browser = await browse(world, script=refuse("RESOURCE_EXHAUSTED", "the queue is full"))
    async with browser:
        assert await browser.refused("/api/generate", {"prompt": "hello"}) == (429, "the queue is full")


async def test_a_failure_behind_the_first_token_is_the_last_event(world: World) -> None:
    def dies(submit: Submit) -> Iterator[StreamOutput]:
        yield StreamOutput(submit.stream, [5])
        yield StreamOutput(submit.stream, [], failure=StreamFailure("UNAVAILABLE", "shard 1 is gone"))

    _, browser = await browse(world, script=dies)
    async with browser:
        events = await browser.generate(prompt="hello")
    assert events[-1] == ("error", {"error": "shard 1 is gone", "code": "UNAVAILABLE"})


async def test_leaving_cancels_at_the_router(world: World) -> None:
    router, browser = await browse(world, step_s=0.01)
    async with browser:
        async with browser.post("/api/generate", {"prompt": "hello", "max_tokens": 1000}) as response:
            await response.content.readline()
        await until(lambda: len(router.cancels) == 1)
    assert router.running == 0


async def test_a_draining_server_refuses(world: World) -> None:
    _, browser = await browse(world)
    await world.server.admission.drain(0.1)
    async with browser:
        assert await browser.refused("/api/generate", {"prompt": "hi"}) == (503, "the server is draining")


async def test_page_streams_count_like_others(world: World) -> None:
    _, browser = await browse(world)
    async with browser:
        await browser.generate(prompt="hello", max_tokens=4)
    registry = world.server.metrics.registry
    assert registry.get_sample_value("expertmesh_generation_tokens_total", {"model": "tiny"}) == 4
    labels = {"model": "tiny", "finished_reason": "length"}
    assert registry.get_sample_value("expertmesh_request_success_total", labels) == 1

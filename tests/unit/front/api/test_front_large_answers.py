"""Answers with the routing of a long prompt: small messages, whole content, and others go on meanwhile."""

import asyncio
from collections.abc import Iterator

import grpc
import msgspec
import numpy as np
import pytest

from router_service.front.routing import router_link
from router_service.front.routing.backlog import STREAM_TOKENS
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import StreamOutput, Submit
from router_service.protocol.routing_part import ID, VALUE, RoutingArrays, RoutingPart, arrays_of
from tests.unit.front.calls import check_one_end, collect, ids_of
from tests.unit.front.front_fakes import WAIT_S, echo, report, until
from tests.unit.front.front_world import World

PROMPT = [5 + position % 300 for position in range(4000)]
LAYERS, CHOSEN, RANKED = 16, 8, 16
MIB = 1 << 20


def part_at(first: int, positions: int, scored: bool) -> RoutingPart:
    """Each position's numbers are its own."""
    draw = np.random.default_rng(first)

    def ids(width: int) -> bytes:
        return draw.integers(0, 256, (positions, LAYERS, width)).astype(ID).tobytes()

    def values(width: int) -> bytes:
        return draw.random((positions, LAYERS, width)).astype(VALUE).tobytes()

    layers, ranked = list(range(LAYERS)), RANKED if scored else 0
    chosen = {"experts": ids(CHOSEN), "weights": values(CHOSEN), "shards": ids(CHOSEN)}
    return RoutingPart(first, positions, layers, **chosen, scored_experts=ids(ranked), scores=values(ranked))


def sizes(prompt: int) -> list[int]:
    """The positions of the parts, as a router cuts them."""
    return [128] * (prompt // 128) + [prompt % 128] * bool(prompt % 128)


def routed(submit: Submit) -> Iterator[StreamOutput]:
    """As a router answers: parts of the prompt before the first token, which has the last one."""
    if not submit.return_routing:
        yield from echo(submit)
        return
    first = 0
    *before, last = sizes(len(submit.prompt))
    for positions in before:
        yield StreamOutput(submit.stream, [], routing=part_at(first, positions, submit.return_scores))
        first += positions
    for output in echo(submit):
        yield msgspec.structs.replace(output, routing=part_at(first, last, submit.return_scores))
        first, last = first + last, 1


def expected(generated: int, scored: bool) -> list[RoutingArrays]:
    first, parts = 0, []
    for positions in sizes(len(PROMPT)) + [1] * (generated - 1):
        parts.append(arrays_of(part_at(first, positions, scored)))
        first += positions
    return parts


def check(responses: list[pb.GenerateResponse], generated: int, scored: bool) -> None:
    """All positions, once and in order."""
    layers = [list(position.layers) for response in responses for position in response.routing]
    columns = {
        "experts_PLK": "experts", "weights_PLK": "weights", "shards_PLK": "shards",
        "scored_experts_PLN": "scored_experts", "scores_PLN": "scores",
    }  # fmt: skip
    parts = expected(generated, scored)
    assert [[one.layer for one in position] for position in layers] == [list(range(LAYERS))] * len(layers)
    for ours, theirs in columns.items():
        found = [[list(getattr(one, theirs)) for one in position] for position in layers]
        np.testing.assert_array_equal(np.array(found), np.concatenate([getattr(part, ours) for part in parts]))


@pytest.mark.parametrize("scored", [False, True], ids=["routing", "scores"])
async def test_a_long_prompts_routing_comes_in_small_messages(world: World, scored: bool) -> None:
    _, client = await world.serve(script=routed)
    responses = await collect(client, tokens=PROMPT, max_tokens=3, return_routing=True, return_scores=scored)
    check_one_end(responses)
    assert sum(response.ByteSize() for response in responses) > 4 * MIB
    assert max(response.ByteSize() for response in responses) < MIB
    check(responses, 3, scored)
    # The prompt's come before or with the first token.
    with_token = next(number for number, response in enumerate(responses) if response.token_ids)
    known = sum(len(response.routing) for response in responses[: with_token + 1])
    assert known >= len(PROMPT)
    assert ids_of(responses) == PROMPT[:3]


async def test_clients_with_grpcs_own_limit_can_read_it(world: World) -> None:
    await world.serve(script=routed)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        generate = channel.unary_stream(
            "/expertmesh.v1.Inference/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )
        request = pb.GenerateRequest(
            tokens=pb.TokenIds(ids=PROMPT), sampling=pb.Sampling(max_tokens=1), return_routing=True
        )
        check([response async for response in generate(request)], 1, scored=False)


class Reader:
    """Never waits in a write, and notes how often the event loop came round before each."""

    def __init__(self) -> None:
        self.turns = 0
        self.turns_before: list[int] = []
        self.responses: list[pb.GenerateResponse] = []

    def time_remaining(self) -> float | None:
        return None

    def done(self) -> bool:
        return False

    async def accepted(self, _: str, /) -> None: ...

    async def write(self, response: pb.GenerateResponse, /) -> None:
        self.turns_before.append(self.turns)
        self.responses.append(response)

    async def count_turns(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


async def test_the_event_loop_comes_round_between_two_messages(world: World) -> None:
    """Also where what is written to does not wait, as the live page's collector of routing."""
    await world.serve(script=routed)
    reader = Reader()
    turning = asyncio.create_task(reader.count_turns())
    request = pb.GenerateRequest(
        tokens=pb.TokenIds(ids=PROMPT), sampling=pb.Sampling(max_tokens=1), return_routing=True
    )
    await asyncio.wait_for(world.server.inference.answer(request, reader), WAIT_S)
    turning.cancel()
    assert len(set(reader.turns_before)) == len(reader.turns_before)
    check(reader.responses, 1, scored=False)
    assert all(response.ByteSize() < MIB // 8 for response in reader.responses)


async def test_a_prompt_over_the_limit_fails_its_own_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    router, client = await world.serve(stall_after_steps=1)
    other = asyncio.create_task(collect(client, "hello", max_tokens=9))
    await until(lambda: router.steps == 1)
    monkeypatch.setattr(router_link, "MAX_MESSAGE_BYTES", 2000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, tokens=PROMPT, max_tokens=3)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "a message to a router at most 2000" in str(caught.value.details())
    router.stall_after_steps = None
    assert len(ids_of(await other)) == 9
    assert (router.connections, len(router.submits)) == (1, 1)


async def test_a_prompt_counts_as_backlog_until_its_first_token(world: World) -> None:
    """Its routing comes while it is still read."""
    router, client = await world.serve(script=routed, stall_after_steps=3)
    answer = asyncio.create_task(collect(client, tokens=PROMPT, max_tokens=9, return_routing=True))
    (link,) = world.server.router_pool.links
    await until(lambda: router.steps == 3)
    router.say(report("seen"))  # behind the routing, so that it has come
    await until(lambda: link.report is not None and link.report.router == "seen")
    assert link.backlog.tokens == len(PROMPT) + STREAM_TOKENS
    router.stall_after_steps = len(sizes(len(PROMPT)))
    await until(lambda: link.backlog.tokens == STREAM_TOKENS)
    router.stall_after_steps = None
    check_one_end(await answer)

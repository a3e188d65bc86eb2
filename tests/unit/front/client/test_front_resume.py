"""A Front is lost in the middle of an answer: the client has the same answer as if nothing had happened."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from router_service.client import resuming
from router_service.client.client import Client
from router_service.client.fronts import Fronts
from router_service.client.resuming import MAX_TRIES, Resuming
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Logprob, StreamFailure, StreamOutput, Submit, TokenLogprobs
from tests.support.routed import Layer, part_of
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of, text_of
from tests.unit.front.client.lossy import Way
from tests.unit.front.front_fakes import FakeRouter, echo, refuse, until
from tests.unit.front.front_world import World

# Bytes of characters of several tokens, and words.
TEXT = "h\u00e9llo \u4f60\u597d world, END. and more \U0001f600!"
Ways = Callable[[], Any]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(resuming, "LONGEST_PAUSE_S", 0.001)


@pytest.fixture
async def two(world: World) -> AsyncIterator[tuple[FakeRouter, Client, list[Way]]]:
    """A router, two Fronts, a way to each that can be lost, and a client that knows both."""
    router = await world.router()
    async with AsyncExitStack() as stack:
        ways = []
        for _ in range(2):
            await (await world.front()).wait_ready(10)
            ways.append(await stack.enter_async_context(Way(world.server.grpc_port)))
        client = Client([way.target for way in ways])
        stack.push_async_callback(client.close)
        yield router, client, ways


def everything(submit: Submit) -> Iterator[StreamOutput]:
    """As `echo`, with routing of each position and log-probabilities of the prompt."""
    prompt, best = submit.prompt, [Logprob(1, -0.25)]
    scores = [TokenLogprobs(Logprob(id, -float(at)), best) for at, id in enumerate(prompt)]
    yield StreamOutput(submit.stream, [], prompt_logprobs=scores[:2])
    known = len(prompt) + len(submit.generated)
    yield StreamOutput(submit.stream, [], routing=routing_of(0, known - 1), prompt_logprobs=scores[2:])
    for at, output in enumerate(echo(submit), known - 1):
        output = StreamOutput(
            output.stream, output.token_ids, output.logprobs, routing_of(at, 1), output.finish, timings=output.timings
        )
        yield output


def routing_of(first: int, count: int) -> Any:
    return part_of(first, [[Layer(1, [at % 8], [1.0], [0])] for at in range(first, first + count)])


def joined(responses: Responses) -> dict[str, object]:
    """All that a client has of an answer, without times and the way in which it was split."""
    check_one_end(responses)
    return {
        "tokens": ids_of(responses),
        "text": text_of(responses),
        "logprobs": [entry.SerializeToString() for one in responses for entry in one.logprobs],
        "routing": [entry.SerializeToString() for one in responses for entry in one.routing],
        "prompt": [entry.SerializeToString() for one in responses for entry in one.prompt_logprobs],
        "end": responses[-1].finish_reason,
        "counts": (responses[-1].usage.prompt_tokens, responses[-1].usage.generated_tokens),
    }


async def interrupted(
    router: FakeRouter, client: Client, lose: Callable[[], object], after: int, **request: Any
) -> Responses:
    """The answer, whose Front is lost once the client has `after` tokens and the router makes no more."""
    router.stall_after_steps = router.steps + after
    responses = []
    async for response in client.generate(**request):
        responses.append(response)
        if router.stall_after_steps is not None and len(ids_of(responses)) >= after - 2:
            lose()
            router.stall_after_steps = None
    return responses


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"max_tokens": 40},
    "sampled": {"max_tokens": 40, "temperature": 1.0, "seed": 5, "logprobs": 2},
    "everything": {"max_tokens": 40, "return_routing": True, "prompt_logprobs": 1, "logprobs": 0},
    "a stop text": {"max_tokens": 200, "stop": ["END.", "nothing"]},
    "a later stop text": {"max_tokens": 200, "stop": ["END."], "min_tokens": 60},
    "a stop token": {"max_tokens": 200, "stop_token_ids": [0]},
}


@pytest.mark.parametrize("after", [3, 4, 5, 6, 7, 8, 14, 23, 30])
@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_is_that_of_an_undisturbed_call(
    two: tuple[FakeRouter, Client, list[Way]], world: World, name: str, after: int
) -> None:
    router, client, ways = two
    router.script = everything if name == "everything" else echo
    request = {"prompt": TEXT, "temperature": 0.0} | REQUESTS[name]
    if name == "a stop token":
        request["stop_token_ids"] = [world.text.tokenizer.encode(TEXT, True)[-1]]
    calm = joined([one async for one in world.clients[0].generate(**request)])
    first = len(router.submits)
    responses = await interrupted(router, client, ways[0].lose, after, **request)
    assert joined(responses) == calm
    before, *others = router.submits[first:]
    assert before.generated == []
    tokens: list[int] = calm["tokens"]  # type: ignore[assignment]
    if len(tokens) <= after:  # it had ended before
        return
    (resumed,) = others
    assert resumed.generated == tokens[: len(resumed.generated)]
    assert 0 < len(resumed.generated) <= after
    assert (resumed.sampling, resumed.request_id) == (before.sampling, before.request_id)


async def test_one_address_behind_which_a_front_is_back(world: World) -> None:
    router, direct = await world.serve()
    calm = joined(await collect(direct, TEXT, max_tokens=30))
    async with Way(world.server.grpc_port) as way, Client(way.target) as client:
        responses = await interrupted(router, client, way.cut, 8, prompt=TEXT, max_tokens=30)
        assert joined(responses) == calm
        assert way.accepted == 2


@pytest.mark.parametrize("after", [40, 39])
async def test_only_the_end_was_lost(two: tuple[FakeRouter, Client, list[Way]], world: World, after: int) -> None:
    """Whoever has all tokens asks no router for more."""
    router, _, _ = two
    calm = joined(await collect(world.clients[0], TEXT, max_tokens=40))
    tokens: list[int] = calm["tokens"]  # type: ignore[assignment]
    stub = Fronts([f"127.0.0.1:{world.server.grpc_port}"], None, 1)
    asked = len(router.submits)
    request = pb.GenerateRequest(prompt=TEXT, sampling=pb.Sampling(max_tokens=40, temperature=0))
    request.continuation.token_ids.extend(tokens[:after])
    responses = [one async for one in stub.inference.Generate(request)]
    check_one_end(responses)
    # No text was delivered, so it comes in full; tokens are not repeated.
    assert (text_of(responses), ids_of(responses)) == (calm["text"], tokens[after:])
    assert responses[-1].finish_reason == pb.LENGTH
    assert responses[-1].usage.generated_tokens == 40
    assert len(router.submits) - asked == (40 - after > 0)
    await stub.close()


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [({"stop": ["END."]}, pb.STOP), ({"stop_token_ids": [7]}, pb.STOP), ({"max_tokens": 9}, pb.LENGTH)],
)
async def test_an_answer_that_has_ended_before_ends_at_once(
    world: World, sampling: dict[str, Any], reason: pb.FinishReason
) -> None:
    router, client = await world.serve()
    ids = await client.tokenize("the END.") + [7]
    ids = (ids * 9)[:9] if "max_tokens" in sampling else ids
    request = pb.GenerateRequest(prompt="hello", sampling=pb.Sampling(**sampling))
    request.continuation.token_ids.extend(ids)
    fronts = Fronts([f"127.0.0.1:{world.server.grpc_port}"], None, 1)
    responses = [one async for one in fronts.inference.Generate(request)]
    assert [one.finish_reason for one in responses] == [reason]
    assert router.submits == []
    await fronts.close()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([3] * 6, "continuation.token_ids: has 6 tokens, the answer's max_tokens is 5"),
        ([3, 512], "continuation.token_ids[1]: token 512 is not in the vocabulary, 0 to 511"),
    ],
)
async def test_what_no_answer_can_have_is_refused(world: World, ids: list[int], message: str) -> None:
    await world.serve()
    request = pb.GenerateRequest(prompt="hello", sampling=pb.Sampling(max_tokens=5))
    request.continuation.token_ids.extend(ids)
    fronts = Fronts([f"127.0.0.1:{world.server.grpc_port}"], None, 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [_ async for _ in fronts.inference.Generate(request)]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(message)
    await fronts.close()


async def test_a_drawn_seed_stays(two: tuple[FakeRouter, Client, list[Way]]) -> None:
    router, client, ways = two
    await interrupted(router, client, ways[0].lose, 8, prompt=TEXT, max_tokens=30, temperature=1.0)
    before, resumed = router.submits
    assert before.sampling.seed == resumed.sampling.seed


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL"])
async def test_what_a_front_states_is_final(two: tuple[FakeRouter, Client, list[Way]], code: str) -> None:
    router, client, _ = two

    def fails(submit: Submit) -> Iterator[StreamOutput]:
        yield StreamOutput(submit.stream, [5])
        yield StreamOutput(submit.stream, [], failure=StreamFailure(code, "shard 1 is away"))

    router.script = fails
    with pytest.raises(grpc.aio.AioRpcError, match="shard 1 is away") as caught:
        await collect(client, TEXT, max_tokens=30)
    assert caught.value.code().name == code
    assert len(router.submits) == 1


async def test_without_resume_a_lost_connection_is_an_error(two: tuple[FakeRouter, Client, list[Way]]) -> None:
    router, client, ways = two
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await interrupted(router, client, ways[0].lose, 8, prompt=TEXT, max_tokens=30, resume=False)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(router.submits) == 1


async def test_who_cannot_go_on_says_so(world: World) -> None:
    """After so many calls, with pauses that grow; the error has the request's id and how far it came."""
    router, _ = await world.serve(stall_after_steps=5)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with Way(world.server.grpc_port) as way:
        fronts = Fronts([way.target], None, 1)
        request = pb.GenerateRequest(prompt=TEXT, request_id="mine", sampling=pb.Sampling(max_tokens=30))
        answer = Resuming(fronts, (), request, resume=True, timeout=None, sleep=sleep).responses()
        received = 0
        while received < 5:
            received += len((await anext(answer)).token_ids)
        way.lose()
        with pytest.raises(grpc.aio.AioRpcError, match=f"lost behind 5 tokens, and {MAX_TRIES} calls could") as caught:
            await anext(answer)
        await fronts.close()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(pauses) == MAX_TRIES - 1
    assert pauses == sorted(pauses)
    await until(lambda: router.running == 0)


async def test_a_target_that_is_not_there_is_passed_over(world: World) -> None:
    router, _ = await world.serve()
    async with Way(world.server.grpc_port) as gone:
        pass
    async with Client([gone.target, f"127.0.0.1:{world.server.grpc_port}"]) as client:
        await client.wait_ready(10)
    async with Client([gone.target, f"127.0.0.1:{world.server.grpc_port}"]) as client:
        assert len(ids_of(await collect(client, "hello", max_tokens=4))) == 4
    async with Client([gone.target, gone.target]) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(client, "hello", max_tokens=4)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(router.submits) == 1


async def test_a_refused_request_is_not_sent_again_to_the_same_front(world: World) -> None:
    router, _ = await world.serve(script=refuse("RESOURCE_EXHAUSTED", "the queue is full"))
    async with Client(f"127.0.0.1:{world.server.grpc_port}") as client:
        with pytest.raises(grpc.aio.AioRpcError, match="the queue is full"):
            await collect(client, "hello", max_tokens=4)
    assert len(router.submits) == 1


def test_a_client_needs_a_target() -> None:
    with pytest.raises(ValueError, match="at least one HOST:PORT"):
        Fronts([], None, 1)

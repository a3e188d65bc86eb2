"""Several answers to one request: one prompt is computed, and each answer is that of a call with its own seed."""

import asyncio
import io
from collections import defaultdict
from collections.abc import Iterator

import grpc
import pytest

from router_service.front.errors import RequestError
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Logprob, StreamFailure, StreamOutput, Submit, TokenLogprobs
from tests.support.routed import Layer, part_of
from tests.unit.front.api.test_front_last_message import SlowReader, count
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of
from tests.unit.front.front_fakes import WAIT_S, echo, until
from tests.unit.front.front_world import World

PROMPT = "hello world, " * 40


def by_seed(submit: Submit) -> Iterator[StreamOutput]:
    """As many tokens as the seed says, and these say it."""
    for at in range(submit.sampling.seed):
        finish = "length" if at + 1 == submit.sampling.seed else None
        yield StreamOutput(submit.stream, [100 + submit.sampling.seed], finish=finish)


def answers_of(responses: Responses) -> dict[int, Responses]:
    answers = defaultdict(list)
    for response in responses:
        answers[response.index].append(response)
    for answer in answers.values():
        check_one_end(answer)
    return dict(answers)


async def test_each_answer_has_its_index_its_seed_and_its_end(world: World) -> None:
    router, client = await world.serve(script=by_seed)
    answers = answers_of(await collect(client, PROMPT, n=4, seed=3, request_id="mine"))
    assert {index: ids_of(answer) for index, answer in answers.items()} == {
        0: [103] * 3,
        1: [104] * 4,
        2: [105] * 5,
        3: [106] * 6,
    }
    assert [submit.sampling.seed for submit in router.submits] == [3, 4, 5, 6]
    assert {submit.request_id for submit in router.submits} == {"mine"}
    assert [answers[index][-1].usage.generated_tokens for index in range(4)] == [3, 4, 5, 6]
    assert {answer[-1].usage.prompt_tokens for answer in answers.values()} == {len(router.submits[0].prompt)}


async def test_each_answer_counts_as_a_stream(world: World) -> None:
    router = await world.router(stall_after_steps=0)
    client = await world.front(max_concurrent_streams=4)
    await client.wait_ready(WAIT_S)
    with pytest.raises(grpc.aio.AioRpcError, match="n: must be at most 4"):
        await collect(client, PROMPT, n=5)
    task = asyncio.create_task(collect(client, PROMPT, n=3, max_tokens=4))
    await until(lambda: router.running > 0)
    with pytest.raises(grpc.aio.AioRpcError, match="4 streams, its limit"):
        await collect(client, PROMPT, n=2)
    router.stall_after_steps = None
    assert len(answers_of(await task)) == 3
    assert len(answers_of(await collect(client, PROMPT, n=4, max_tokens=2))) == 4


@pytest.mark.parametrize("n", [0, 1])
async def test_one_answer_is_the_default(world: World, n: int) -> None:
    router, client = await world.serve()
    responses = await collect(client, "hello", n=n, max_tokens=3)
    check_one_end(responses)
    assert {response.index for response in responses} == {0}
    assert len(router.submits) == 1


async def test_the_others_begin_once_the_first_has_a_token(world: World) -> None:
    steps: list[int] = []

    def noted(submit: Submit) -> Iterator[StreamOutput]:
        steps.append(router.steps)
        return echo(submit)

    router, client = await world.serve(stall_after_steps=0, script=noted)
    task = asyncio.create_task(collect(client, PROMPT, n=3, max_tokens=4))
    await until(lambda: router.running > 0)
    router.let_step()
    await until(lambda: len(router.submits) == 3)
    router.stall_after_steps = None
    assert len(answers_of(await task)) == 3
    assert steps == [0, 1, 1]


async def test_a_first_answer_of_one_token_lets_the_others_begin(world: World) -> None:
    _, client = await world.serve()
    assert len(answers_of(await collect(client, PROMPT, n=5, max_tokens=1))) == 5


async def test_all_go_to_the_router_of_the_first(world: World) -> None:
    """Whatever its load is; else a busy one would leave the others to compute the prompt again."""
    routers = [await world.router(name=f"r{index}", prefix_cache_tokens=4096) for index in range(2)]
    client = await world.front()
    await client.wait_ready(10)
    await until(lambda: world.server.linked_routers == 2)
    answers = answers_of(await collect(client, PROMPT, n=24, max_tokens=8))
    assert len(answers) == 24
    assert sorted(len(router.submits) for router in routers) == [0, 24]


async def test_a_drawn_seed_is_followed_too(world: World) -> None:
    router, client = await world.serve()
    await collect(client, "hello", n=3, max_tokens=1)
    first, *others = [submit.sampling.seed for submit in router.submits]
    assert others == [first + 1, first + 2]
    await collect(client, "hello", n=3, max_tokens=1, seed=(1 << 64) - 1)
    assert [submit.sampling.seed for submit in router.submits[3:]] == [(1 << 64) - 1, 0, 1]


def scored(submit: Submit) -> Iterator[StreamOutput]:
    """Log-probabilities of the prompt and routing, as far as they are wanted."""
    prompt = submit.prompt
    scores = (
        [TokenLogprobs(Logprob(id, -1.0), []) for id in prompt] if submit.sampling.prompt_logprobs is not None else []
    )
    layers = [[Layer(1, [3], [1.0], [0])]] * (len(prompt) - submit.reported)
    yield StreamOutput(
        submit.stream, [], prompt_logprobs=scores, routing=part_of(submit.reported, layers) if layers else None
    )
    yield StreamOutput(submit.stream, [7], finish="length", routing=part_of(len(prompt), [[Layer(1, [3], [1.0], [0])]]))


async def test_what_is_of_the_prompt_comes_with_the_first_answer(world: World) -> None:
    router, client = await world.serve(script=scored)
    request = {"n": 3, "echo": True, "prompt_logprobs": 0, "return_routing": True, "max_tokens": 1}
    answers = answers_of(await collect(client, "hello world", **request))
    ids = router.submits[0].prompt
    assert [sum(len(one.prompt_logprobs) for one in answers[index]) for index in range(3)] == [len(ids), 0, 0]
    assert [sum(len(one.prompt_token_ids) for one in answers[index]) for index in range(3)] == [len(ids), 0, 0]
    assert [sum(len(one.routing) for one in answers[index]) for index in range(3)] == [len(ids) + 1, 1, 1]
    # Else they could not use what the first one has cached.
    assert [(submit.sampling.prompt_logprobs, submit.reported) for submit in router.submits[1:]] == [
        (None, len(ids))
    ] * 2


async def test_a_failed_answer_ends_the_call(world: World) -> None:
    def fails(submit: Submit) -> Iterator[StreamOutput]:
        if submit.sampling.seed == 2:
            yield StreamOutput(submit.stream, [5])
            yield StreamOutput(submit.stream, [], failure=StreamFailure("UNAVAILABLE", "shard 1 is away"))
        else:
            yield from echo(submit)

    router, client = await world.serve(script=fails, step_s=0.001)
    with pytest.raises(grpc.aio.AioRpcError, match="shard 1 is away") as caught:
        await collect(client, "hello", n=4, seed=0, max_tokens=4000, ignore_eos=True)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await until(lambda: len(router.cancels) == 3)
    assert (router.running, world.server.streams) == (0, 0)
    assert count(world, "request_failures", code="UNAVAILABLE") == 1


async def test_who_leaves_ends_all_answers(world: World) -> None:
    router, client = await world.serve(step_s=0.001)
    stream = client.generate("hello", n=4, max_tokens=4000, ignore_eos=True)
    async for _ in stream:
        if len(router.submits) == 4:
            break
    await stream.aclose()
    await until(lambda: len(router.cancels) == 4)
    await until(lambda: world.server.streams == 0)
    assert count(world, "request_failures", code="CANCELLED") == 1


async def test_a_drain_ends_each_answer_that_is_open_once(world: World) -> None:
    """The last message of one is on its way when the drain's patience ends: it is neither cut off nor sent twice."""
    router, _ = await world.serve(script=by_seed, stall_after_steps=0)
    reader = SlowReader()
    request = pb.GenerateRequest(prompt="hello", n=3, sampling=pb.Sampling(seed=2))
    answer = asyncio.create_task(world.server.inference.answer(request, reader))
    await until(lambda: router.running == 1)
    router.let_step()
    await until(lambda: len(router.submits) == 3)
    router.let_step()  # the first answer ends
    await asyncio.wait_for(reader.waits.wait(), WAIT_S)
    await world.server.admission.drain(0.0)
    reader.let.set()
    await asyncio.wait_for(answer, WAIT_S)
    ends = {one.index: one.finish_reason for one in reader.taken if one.finish_reason}
    assert ends == {0: pb.LENGTH, 1: pb.CANCELLED, 2: pb.CANCELLED}
    assert len([one for one in reader.taken if one.finish_reason]) == 3
    assert count(world, "request_success", finished_reason="cancelled") == 2


async def test_a_client_that_does_not_read_loses_all_answers(world: World) -> None:
    """What waits for it is bounded as for one answer: each has its share."""
    router = await world.router()
    client = await world.front(max_buffered_tokens=64)
    await client.wait_ready(10)
    reader = SlowReader(slow=True)
    request = pb.GenerateRequest(prompt="hello", n=8, sampling=pb.Sampling(max_tokens=4000, ignore_eos=True))
    task = asyncio.create_task(world.server.inference.answer(request, reader))
    await reader.waits.wait()
    await until(lambda: len(router.cancels) >= 7)
    reader.let.set()
    with pytest.raises(RequestError, match="reads too slowly"):
        await task
    await until(lambda: router.running == 0)
    assert world.server.streams == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 129}, "n: must be 1 to 128 answers, or 0 for one, got 129"),
        ({"n": 2, "continuation": pb.Continuation()}, "continuation: goes on with one answer, and n is 2"),
    ],
)
async def test_what_cannot_be_is_refused(world: World, fields: dict[str, object], message: str) -> None:
    await world.serve()
    request = pb.GenerateRequest(prompt="hello", **fields)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=message):
        await world.server.inference.answer(request, SlowReader())


async def test_each_answer_counts_and_the_request_is_logged_once(world: World, written: io.StringIO) -> None:
    _, client = await world.serve(script=by_seed)
    await collect(client, tokens=[5, 6, 7], n=3, seed=2)
    await until(lambda: "request finished" in written.getvalue())
    assert count(world, "request_success", finished_reason="length") == 3
    assert count(world, "generation_tokens") == 2 + 3 + 4
    assert count(world, "prompt_tokens") == 9
    lines = [line for line in written.getvalue().splitlines() if '"request ' in line]
    assert [line.count("request accepted") for line in lines] == [1, 0]
    assert '"answers": 3' in lines[1]
    assert '"tokens": 9' in lines[1]

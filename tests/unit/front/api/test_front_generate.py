"""Generate over a real channel: text, stops, limits, usage, many streams at once."""

import asyncio

import grpc
import pytest

from router_service.front.api.answers.response_builder import FULL_BYTES
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Logprob, StreamOutput, Submit, TokenLogprobs
from router_service.text.tokenizer import Tokenizer
from tests.support.routed import Layer, part_of
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of, text_of
from tests.unit.front.front_fakes import FakeRouter, echo, refuse, until
from tests.unit.front.front_world import World


async def test_an_answer_streams_and_ends_once(world: World) -> None:
    router, client = await world.serve(stall_after_steps=1)
    ids = await client.tokenize("hello world")
    responses = []
    async for response in client.generate("hello world", max_tokens=2 * len(ids), request_id="mine", seed=7):
        responses.append(response)
        router.let_step()  # a token that comes while another is on its way may share its response
    check_one_end(responses)
    assert len(responses) == 2 * len(ids)
    assert {response.request_id for response in responses} == {"mine"}
    assert text_of(responses) == "hello worldhello world"
    assert ids_of(responses) == ids + ids
    assert responses[-1].finish_reason == pb.LENGTH
    assert responses[-1].usage == pb.Usage(
        prompt_tokens=len(ids),
        cached_prompt_tokens=3,
        generated_tokens=2 * len(ids),
        queue_seconds=0.25,
        prefill_seconds=0.5,
        decode_seconds=1.0,
    )
    (submit,) = router.submits  # in one go: a token that is withheld until the link is lost comes by a second
    assert (submit.request_id, submit.prompt, submit.sampling.seed) == ("mine", ids, 7)
    assert submit.deadline_seconds is None
    assert router.cancels == []


async def test_multi_byte_characters_arrive_whole(world: World) -> None:
    _, client = await world.serve(step_s=0.001)
    responses = await collect(client, "h\u00e9 \U0001f600\u4f60", max_tokens=200)
    assert all("\ufffd" not in response.text for response in responses[:-1])
    ids = ids_of(responses)
    assert len(ids) == 200
    assert text_of(responses) == await client.detokenize(ids)


async def test_a_stop_string_across_tokens_never_leaks(world: World, tokenizer: Tokenizer) -> None:
    router, client = await world.serve(step_s=0.001)
    prompt = "the lazy END. dog"
    responses = await collect(client, prompt, max_tokens=4000, stop=["zz", "y END. d"])
    check_one_end(responses)
    assert text_of(responses) == "the laz"
    assert responses[-1].finish_reason == pb.STOP
    ids = ids_of(responses)
    assert responses[-1].usage.generated_tokens == len(ids)
    assert responses[-1].usage.queue_seconds == 0.25
    assert tokenizer.decode(ids).startswith("the lazy END. d")
    assert not tokenizer.decode(ids[:-1]).startswith("the lazy END. d")
    await until(lambda: router.cancels == [router.submits[0].stream])


async def test_what_looked_like_a_stop_string_comes_at_the_end(world: World) -> None:
    _, client = await world.serve()
    ids = await client.tokenize("hello wor")
    responses = await collect(client, "hello wor", max_tokens=len(ids), stop=["world"])
    assert text_of(responses) == "hello wor"
    assert responses[-1].finish_reason == pb.LENGTH


async def test_end_tokens_and_stop_tokens_reach_the_router(world: World) -> None:
    router, client = await world.serve()
    eos = 2
    stop = (await client.tokenize("w"))[0]
    responses = await collect(client, tokens=[9, eos, 10], max_tokens=10)
    assert (ids_of(responses), responses[-1].finish_reason) == ([9, eos], pb.STOP)
    responses = await collect(client, tokens=[9, eos, stop], max_tokens=10, ignore_eos=True, stop_token_ids=[stop])
    assert ids_of(responses) == [9, eos, stop]
    assert router.submits[1].sampling.stop_token_ids == (stop,)
    assert router.submits[1].sampling.ignore_eos


async def test_a_chat_goes_through_the_template(world: World, tokenizer: Tokenizer) -> None:
    router, client = await world.serve()
    messages = [{"role": "system", "content": "hello"}, {"role": "user", "content": "world"}]
    await collect(client, messages=messages, max_tokens=1)
    expected = "<|im_start|>system\nhello<|im_end|>\n<|im_start|>user\nworld<|im_end|>\n<|im_start|>assistant\n"
    assert router.submits[0].prompt == tokenizer.encode(expected, add_special_tokens=False)
    assert await client.tokenize(messages=messages) == router.submits[0].prompt


async def test_logprobs_carry_text_and_bytes(world: World) -> None:
    _, client = await world.serve()
    ids = await client.tokenize("\u00e9")
    responses = await collect(client, "\u00e9", max_tokens=2, logprobs=2)
    entries = [entry for response in responses for entry in response.logprobs]
    assert [entry.token_id for entry in entries] == ids
    assert b"".join(entry.raw for entry in entries) == "\u00e9".encode()
    assert entries[0].logprob == -0.5
    assert [(top.token_id, top.text, top.logprob) for top in entries[0].top] == [
        (ids[0], "\ufffd", -0.5),
        (0, "<|endoftext|>", float("-inf")),
    ]


def routed(submit: Submit):  # type: ignore[no-untyped-def]
    """Echo; each position's routing names the position as its first expert. All are reported, as after a restart."""
    done = 0
    for output in echo(submit):
        until_ = len(submit.prompt) + len(submit.generated) if not done else done + 1
        positions = [[Layer(1, [position, 9], [0.5, 0.5], [3, 4])] for position in range(done, until_)]
        yield StreamOutput(output.stream, output.token_ids, routing=part_of(done, positions), finish=output.finish)
        done = until_


async def test_routing_comes_once_for_each_position_even_when_a_router_dies(world: World) -> None:
    first = await world.router(script=routed, die_after_steps=4, step_s=0.002)
    client = await world.front()
    await client.wait_ready(10)
    task = asyncio.create_task(collect(client, tokens=[5, 6, 7], max_tokens=9, return_routing=True))
    await until(lambda: bool(first.submits))
    second = await world.router(name="r1", script=routed)
    responses = await task
    layers = [token.layers[0] for response in responses for token in response.routing]
    assert [layer.experts[0] for layer in layers] == list(range(3 + 9 - 1))
    assert (list(layers[0].experts), list(layers[0].weights), list(layers[0].shards)) == ([0, 9], [0.5, 0.5], [3, 4])
    # A router may leave out what was reported; this one does not, and the Front does.
    assert second.submits[0].reported == 3 + len(second.submits[0].generated) - 1


def scored(submit: Submit):  # type: ignore[no-untyped-def]
    """Log-probabilities of the prompt, two positions an output and only then tokens; each names its position."""
    entries = [
        TokenLogprobs(Logprob(token, -float(position)), [Logprob(1, -0.5)] if position else [])
        for position, token in enumerate(submit.prompt)
    ]
    for start in range(0, len(entries), 2):
        yield StreamOutput(submit.stream, [], prompt_logprobs=entries[start : start + 2])
    yield from echo(submit)


async def test_prompt_logprobs_come_once_even_when_a_router_dies(world: World) -> None:
    first = await world.router(script=scored, die_after_steps=2, step_s=0.002)
    client = await world.front()
    await client.wait_ready(10)
    task = asyncio.create_task(collect(client, tokens=[5, 6, 7, 8, 9], max_tokens=3, prompt_logprobs=1))
    await until(lambda: bool(first.submits))
    await world.router(name="r1", script=scored)
    responses = await task
    check_one_end(responses)
    entries = [entry for response in responses for entry in response.prompt_logprobs]
    assert [(entry.token_id, entry.logprob) for entry in entries] == [(5 + n, -n) for n in range(5)]
    assert [[top.token_id for top in entry.top] for entry in entries] == [[], [1], [1], [1], [1]]
    assert ids_of(responses) == [5, 6, 7]
    assert first.submits[0].sampling.prompt_logprobs == 1


async def test_prompt_logprobs_of_a_long_prompt_come_in_several_messages(world: World) -> None:
    _, client = await world.serve(script=scored)
    responses = await collect(client, tokens=[5] * 3900, max_tokens=1, prompt_logprobs=1)
    check_one_end(responses)
    entries = [entry for response in responses for entry in response.prompt_logprobs]
    assert [entry.logprob for entry in entries] == [-position for position in range(3900)]
    assert sum(response.ByteSize() for response in responses) > FULL_BYTES
    assert max(response.ByteSize() for response in responses) < FULL_BYTES + 100


async def test_a_stop_string_that_is_a_special_token_ends_the_answer(world: World) -> None:
    router, client = await world.serve()
    responses = await collect(client, tokens=[9, 2, 9], max_tokens=9, ignore_eos=True, stop=["<|im_end|>"])
    assert (ids_of(responses), responses[-1].finish_reason) == ([9, 2], pb.STOP)
    assert router.submits[0].sampling.stop_token_ids == (2,)


async def test_a_stop_string_counts_behind_min_tokens_only(world: World) -> None:
    _, client = await world.serve()
    ids = await client.tokenize("w END. ")
    most = 3 * len(ids)
    for least in (0, len(ids), most):
        responses = await collect(client, tokens=ids, max_tokens=most, min_tokens=least, stop=["END."])
        ends = {0: "w ", len(ids): "w END. w ", most: "w END. " * 3}
        assert (text_of(responses), responses[-1].finish_reason) == (
            ends[least],
            pb.LENGTH if least == most else pb.STOP,
        )


async def test_64_streams_some_cancelled_end_exactly_once(world: World, tokenizer: Tokenizer) -> None:
    router, client = await world.serve(step_s=0.003)

    async def one(index: int) -> Responses | None:
        prompt = f"hello world {index}. the END. fox"
        # What is cut short must not end by itself before the router hears of it.
        most = 4000 if index % 4 in (1, 2) else 20 + index
        options = {"max_tokens": most} | ({"stop": ["END."]} if index % 4 == 1 else {})
        stream = client.generate(prompt, **options)  # type: ignore[arg-type]
        if index % 4 == 2:
            await anext(stream)
            await stream.aclose()
            return None
        return [response async for response in stream]

    answers = await asyncio.gather(*(one(index) for index in range(64)))
    for index, responses in enumerate(answers):
        prompt = f"hello world {index}. the END. fox"
        if responses is None:
            continue
        check_one_end(responses)
        if index % 4 == 1:
            assert text_of(responses) == prompt[: prompt.index("END.")]
            continue
        ids = tokenizer.encode(prompt, add_special_tokens=True)
        assert ids_of(responses) == [ids[position % len(ids)] for position in range(20 + index)]
        assert text_of(responses) == tokenizer.decode(ids_of(responses))
    await until(lambda: not router.running)
    await until(lambda: len(router.cancels) == 32)
    assert len(set(router.cancels)) == 32


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL", "NONSENSE", "OK"]
)
async def test_a_routers_failure_becomes_the_status(world: World, code: str) -> None:
    _, client = await world.serve(script=refuse(code, "shard 3 is gone"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    expected = code if code in grpc.StatusCode.__members__ and code != "OK" else "INTERNAL"
    assert (caught.value.code().name, caught.value.details()) == (expected, "shard 3 is gone")


async def test_tokens_before_a_failure_still_arrive(world: World) -> None:
    def script(submit: Submit):  # type: ignore[no-untyped-def]
        yield StreamOutput(submit.stream, [submit.prompt[0]])
        yield from refuse("UNAVAILABLE", "late")(submit)

    _, client = await world.serve(script=script)
    stream = client.generate(tokens=[9])
    assert (await anext(stream)).token_ids == [9]
    with pytest.raises(grpc.aio.AioRpcError, match="late"):
        await anext(stream)


async def test_the_front_refuses_more_streams_than_its_limit(world: World) -> None:
    router = await world.router(stall_after_steps=0)
    client = await world.front(max_concurrent_streams=2)
    await client.wait_ready(10)
    held = [asyncio.create_task(collect(client, "hello")) for _ in range(2)]
    await until(lambda: len(router.submits) == 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await until(lambda: len(router.cancels) == 2)
    router.stall_after_steps = None
    assert (await collect(client, "hello", max_tokens=1))[-1].finish_reason == pb.LENGTH


async def test_a_deadline_ends_the_call_and_cancels_the_stream(world: World) -> None:
    router, client = await world.serve(stall_after_steps=0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello", timeout=5.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    left = router.submits[0].deadline_seconds
    assert left is not None
    assert 0.0 < left < 5.05
    await until(lambda: len(router.cancels) == 1)


async def test_leaving_the_iterator_cancels_at_the_router(world: World) -> None:
    router, client = await world.serve(step_s=0.002)
    stream = client.generate("hello", max_tokens=4000)
    await anext(stream)
    await stream.aclose()
    await until(lambda: router.cancels == [router.submits[0].stream])


async def test_a_request_without_any_router_waits_then_is_unavailable(world: World) -> None:
    client = await world.front(router_wait_seconds=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello", timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_router_with_the_fewest_streams_is_chosen(world: World) -> None:
    routers: list[FakeRouter] = [await world.router(name=name, stall_after_steps=0) for name in ("a", "b")]
    client = await world.front()
    await until(lambda: world.server.linked_routers == 2)
    tasks = [asyncio.create_task(collect(client, "hello")) for _ in range(6)]
    await until(lambda: [len(router.submits) for router in routers] == [3, 3])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

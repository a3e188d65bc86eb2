"""Front, routers and shards together, without Ray: what clients get is what transformers computes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc
import pytest
import torch

from experts.placement import LayerPlacement, Placement
from router_service.engine import failures
from router_service.protocol import inference_pb2 as pb
from tests.support import oracle
from tests.support.tiny import Tiny
from tests.unit.front.calls import Responses, check_one_end, ids_of, text_of
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.router.service import Brake, Service, ask

LONGEST = 48
PROMPTS = oracle.prompts(64)


@pytest.fixture(scope="module")
def answers(tiny: Callable[..., Tiny]) -> list[oracle.Reference]:
    return oracle.greedy(tiny("qwen3_moe").oracle, PROMPTS, LONGEST)


async def test_tokens_and_routing_are_those_of_transformers(service: Service, answers: list[oracle.Reference]) -> None:
    await service.start()
    spec = service.plan.spec
    for answer in answers[::21]:
        responses = await ask(service, answer.prompt, LONGEST, return_routing=True, logprobs=3)
        check_one_end(responses)
        assert ids_of(responses) == answer.tokens
        layers = [position.layers for response in responses for position in response.routing]
        assert len(layers) == len(answer.prompt) + LONGEST - 1
        for number, layer in enumerate(spec.moe_layers):
            assert {position[number].layer for position in layers} == {layer}
            assert [list(position[number].experts) for position in layers] == answer.experts(number)
        logprobs = [entry.logprob for response in responses for entry in response.logprobs]
        best = answer.logits_GV.log_softmax(-1).amax(-1)
        torch.testing.assert_close(torch.tensor(logprobs), best, rtol=1e-3, atol=1e-3)
        usage = responses[-1].usage
        assert (usage.prompt_tokens, usage.generated_tokens) == (len(answer.prompt), LONGEST)
    await service.idle()


async def test_prompt_logprobs_are_those_of_transformers(
    service: Service, tiny: Callable[..., Tiny], answers: list[oracle.Reference]
) -> None:
    await service.start()
    prompt = answers[-1].prompt
    responses = await ask(service, prompt, 1, prompt_logprobs=1)
    check_one_end(responses)
    assert ids_of(responses) == answers[-1].tokens[:1]
    entries = [entry for response in responses for entry in response.prompt_logprobs]
    assert [entry.token_id for entry in entries] == prompt
    assert [len(entry.top) for entry in entries] == [0, *[1] * (len(prompt) - 1)]
    logits_TV = oracle.forced(tiny("qwen3_moe").oracle, torch.tensor([prompt]))[0][0]
    want = logits_TV[:-1].log_softmax(-1).gather(1, torch.tensor(prompt[1:])[:, None]).sum()
    assert sum(entry.logprob for entry in entries) == pytest.approx(float(want), abs=1e-4)
    await service.idle()


async def test_64_streams_of_which_some_stop_and_some_are_cancelled(
    service: Service, answers: list[oracle.Reference]
) -> None:
    """Two routers share the shards; the cache holds a few of the requests at once; 16 stop at a text, 8 leave."""
    await service.start(routers=2, kv_cache_tokens=512)
    lengths = [1 + 11 * n % LONGEST for n in range(64)]
    stops = {n: await stop_of(service, answers[n]) for n in range(1, 64, 4)}
    leaving = set(range(2, 64, 8))
    alone = {n: await ask(service, PROMPTS[n], LONGEST, stop=[stop]) for n, stop in stops.items()}

    async def one(n: int) -> Responses:
        if n in leaving:
            return await leave(service, PROMPTS[n])
        if n in stops:
            return await ask(service, PROMPTS[n], LONGEST, stop=[stops[n]])
        return await ask(service, PROMPTS[n], lengths[n])

    streams = await asyncio.wait_for(asyncio.gather(*(one(n) for n in range(64))), 120)
    for n, responses in enumerate(streams):
        if n in leaving:
            assert all(response.finish_reason == 0 for response in responses)
            # Two responses may hold more tokens than the reference, where the reader was slow.
            read = ids_of(responses)[:LONGEST]
            assert read == answers[n].tokens[: len(read)]
            continue
        check_one_end(responses)
        if n in stops:
            assert (ids_of(responses), text_of(responses)) == (ids_of(alone[n]), text_of(alone[n]))
            assert responses[-1].finish_reason == pb.STOP
            assert stops[n] not in text_of(responses)
            assert ids_of(responses) == answers[n].tokens[: len(ids_of(responses))]
        else:
            assert ids_of(responses) == answers[n].tokens[: lengths[n]]
            assert responses[-1].finish_reason == pb.LENGTH
    await service.idle()
    assert all(router.statistics.cumulative.decode_tokens > 0 for router in service.routers)


async def stop_of(service: Service, answer: oracle.Reference) -> str:
    """Two characters from the middle of an answer's text."""
    text = text_of(await ask(service, answer.prompt, LONGEST))
    return text[len(text) // 2 :][:2]


async def leave(service: Service, prompt: list[int]) -> Responses:
    """Read two responses of a long answer and go."""
    stream = service.client.generate(tokens=prompt, max_tokens=200, temperature=0, ignore_eos=True)
    responses = [await anext(stream), await anext(stream)]
    await stream.aclose()
    return responses


async def test_cancelling_frees_the_blocks(service: Service) -> None:
    await service.start()
    await leave(service, PROMPTS[40])
    await service.idle()
    stream = service.client.generate(tokens=PROMPTS[40], max_tokens=200, temperature=0, ignore_eos=True)
    await anext(stream)
    await service.world.server.stop()
    await service.idle()


async def test_seeds_decide_whatever_runs_beside(service: Service) -> None:
    await service.start(routers=2)
    options = {"temperature": 1.5, "top_p": 0.9, "seed": 12345}
    alone = ids_of(await ask(service, PROMPTS[9], 30, **options))
    many = await asyncio.gather(*(ask(service, PROMPTS[9 + n % 2 * n], 30, **options) for n in range(12)))
    assert [ids_of(responses) for responses in many[::2]] == [alone] * 6
    assert ids_of(await ask(service, PROMPTS[9], 30, **options | {"seed": 54321})) != alone


async def test_limits_and_errors_reach_the_client(service: Service) -> None:
    await service.start(max_sequences=1, max_waiting=1, kv_cache_tokens=128)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(service, [5] * 60, 100)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    # The Front knows what the cache holds.
    assert "a prompt of 60 tokens leaves of the context of 128" in caught.value.details()
    brake = Brake(service.routers[0])  # or the first would have ended before the last has come
    many = [asyncio.create_task(ask(service, PROMPTS[0], 60)) for _ in range(8)]
    await until(lambda: sum(one.done() for one in many) == 6)
    brake.release()
    ends = await asyncio.gather(*many, return_exceptions=True)
    refused = [error for error in ends if isinstance(error, grpc.aio.AioRpcError)]
    assert [error.code() for error in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 6
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(service, PROMPTS[0], 100, timeout=0.01)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await service.idle()


async def test_a_dead_shard_is_named_and_its_return_is_seen(
    service: Service, answers: list[oracle.Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The word must be there before the deadline is, also where others use the machine: a second after the request.
    monkeypatch.setattr(failures, "DEADLINE_MARGIN_SECONDS", 29.0)
    await service.start()
    brake = Brake(service.routers[0], steps=LONGEST // 2)
    stream = asyncio.create_task(ask(service, PROMPTS[-1], LONGEST))
    await until(lambda: not brake.steps)
    service.servers.stop(1)
    brake.release()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(service, PROMPTS[-2], LONGEST, timeout=30.0)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "shard 1" in caught.value.details()
    service.servers.start(1)
    assert ids_of(await stream) == answers[-1].tokens
    assert ids_of(await ask(service, PROMPTS[-2], LONGEST)) == answers[-2].tokens
    await service.idle()
    state = await service.client.cluster()
    assert [shard.shard for shard in state.shards] in ([], [0, 1, 2])


async def test_a_newer_placement_is_adopted_between_two_steps(
    service: Service, answers: list[oracle.Reference]
) -> None:
    await service.start()
    (router,) = service.routers
    first = router.engine.pool.placement
    brake = Brake(router, steps=LONGEST // 2)
    stream = asyncio.create_task(ask(service, PROMPTS[-1], LONGEST))
    await until(lambda: not brake.steps)
    newer = replace(first, epoch=5)
    router.adopt(newer)
    await until(lambda: router.engine.pool.placement is newer)
    for epoch in (4, 5):
        router.adopt(replace(first, epoch=epoch))
    brake.release()
    assert ids_of(await stream) == answers[-1].tokens
    assert router.engine.pool.placement is newer


async def test_each_shard_is_reported_with_its_living_copies(service: Service) -> None:
    await service.start()
    (router,) = service.routers
    holders = ((0, 1), (1, 2), (1,))
    experts = service.plan.spec.gate.experts
    layer = LayerPlacement(tuple(holders[expert % 3] for expert in range(experts)))
    router.adopt(Placement(router.engine.pool.placement.shards, layer, epoch=5))

    async def copies() -> list[int | None]:
        state = await service.client.cluster()
        return [shard.copies if shard.HasField("copies") else None for shard in state.shards]

    await become(copies, [2, 1, 2])
    service.servers.stop(2)
    await become(copies, [2, 1, 1])
    # The front hears it with the same report: nobody needs this shard.
    (link,) = service.world.server.router_pool.links
    assert (router.ready(), router.complete(), link.ready) == (True, False, True)
    service.servers.start(2)
    service.servers.stop(1)
    await become(copies, [1, 0, 1])
    assert (router.ready(), link.ready) == (False, False)


async def become(ask_for: Callable[[], Awaitable[object]], expected: object) -> None:
    async with asyncio.timeout(WAIT_S):
        while await ask_for() != expected:
            await asyncio.sleep(0.01)

"""A Front is lost in the middle of answers of a real router: another one goes on, and no token differs."""

import asyncio
from typing import Any

import pytest

from router_service.client.client import Client
from tests.unit.front.calls import Responses, check_one_end, ids_of, text_of
from tests.unit.front.client.lossy import Way
from tests.unit.front.front_fakes import WAIT_S
from tests.unit.router.service import Brake, Service

PROMPT = [3, 1, 4, 1, 5]
TOKENS = 24
PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 1.0, "seed": 7},
    "penalized": {
        "temperature": 1.0,
        "seed": 8,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "top_p": 0.95,
        "logit_bias": {9: 2.0},
        "logprobs": 2,
        "min_tokens": 15,
        "stop_token_ids": [9],
    },
    "routed": {"temperature": 0.0, "return_routing": True, "prompt_logprobs": 2},
}


def told(responses: Responses) -> dict[str, Any]:
    """All of an answer but its times."""
    check_one_end(responses)
    every = [entry for one in responses for entry in (*one.logprobs, *one.prompt_logprobs)]
    experts = [(layer.layer, *layer.experts) for one in responses for at in one.routing for layer in at.layers]
    return {
        "tokens": ids_of(responses),
        "text": text_of(responses),
        "scored": [entry.token_id for entry in every],
        "logprobs": [entry.logprob for entry in every],
        "experts": experts,
        "end": responses[-1].finish_reason,
        "generated": responses[-1].usage.generated_tokens,
    }


def same(responses: Responses, calm: dict[str, Any]) -> bool:
    """Whether an answer is the calm one; log-probabilities of another batch differ in their last bits."""
    return told(responses) == calm | {"logprobs": pytest.approx(calm["logprobs"], abs=1e-4)}


async def lose_within(client: Client, way: Way, brake: Brake, after: int, **request: Any) -> Responses:
    """The answer, whose Front is lost once all tokens have come that the brake lets the router compute."""
    responses: Responses = []
    async for response in client.generate(**request):
        responses.append(response)
        if len(ids_of(responses)) == after:
            way.lose()
            brake.release()
    return responses


@pytest.mark.parametrize("after", [1, 9, 20])
@pytest.mark.parametrize("name", PARAMS)
async def test_the_answer_is_that_of_an_undisturbed_call(service: Service, name: str, after: int) -> None:
    await service.start()
    request = {"tokens": PROMPT, "max_tokens": TOKENS, "ignore_eos": True} | PARAMS[name]
    calm = told([one async for one in service.client.generate(**request)])
    first = service.world.server.grpc_port
    other = await service.world.front()
    await other.wait_ready(WAIT_S)
    brake = Brake(service.routers[0], steps=after)
    async with (
        Way(first) as way,
        Way(service.world.server.grpc_port) as spare,
        Client([way.target, spare.target]) as client,
    ):
        responses = await asyncio.wait_for(lose_within(client, way, brake, after, **request), WAIT_S)
        assert same(responses, calm)
        assert spare.accepted == 1
    assert len(calm["tokens"]) > after
    await service.idle()


async def test_a_closed_front_costs_none_of_its_streams(service: Service) -> None:
    """Several streams at once, and the Front that served them is closed with them."""
    await service.start()
    prompts = [[3, 1], [4, 1, 5], [9, 2, 6, 5], [3, 5]]
    request: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 1.0, "seed": 3}
    calm = [told([one async for one in service.client.generate(tokens=prompt, **request)]) for prompt in prompts]
    doomed = service.world.server
    await (await service.world.front()).wait_ready(WAIT_S)
    brake = Brake(service.routers[0], steps=6)
    async with (
        Way(doomed.grpc_port) as way,
        Way(service.world.server.grpc_port) as spare,
        Client([way.target, spare.target]) as client,
    ):
        began = [asyncio.Event() for _ in prompts]

        async def answer(number: int) -> Responses:
            responses = []
            async for response in client.generate(tokens=prompts[number], **request):
                responses.append(response)
                began[number].set()
            return responses

        tasks = [asyncio.create_task(answer(number)) for number in range(len(prompts))]
        await asyncio.wait_for(asyncio.gather(*(one.wait() for one in began)), WAIT_S)
        way.lose()
        await doomed.stop()
        brake.release()
        answers = [await asyncio.wait_for(task, WAIT_S) for task in tasks]
        assert all(map(same, answers, calm))
    await service.idle()

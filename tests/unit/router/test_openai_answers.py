"""A real router's answers over HTTP: those of gRPC, field by field."""

from typing import Any

import pytest

from tests.unit.front.openai.caller import Caller
from tests.unit.router.service import Service, ask

PROMPT = [(7 * at) % 60 + 3 for at in range(40)]
TOKENS = 8
FIELDS: dict[str, Any] = {"temperature": 1.0, "seed": 7, "logprobs": 2}
COMPLETIONS = "/v1/completions"


async def start(service: Service) -> Caller:
    await service.start()
    client = await service.world.front(http_port=0)
    await client.wait_ready(10)
    return Caller(service.world.server.http_port)


async def test_a_completion_is_grpcs(service: Service) -> None:
    caller = await start(service)
    responses = await ask(service, PROMPT, TOKENS, **FIELDS, prompt_logprobs=2, return_routing=True)
    asked = FIELDS | {"prompt": PROMPT, "max_tokens": TOKENS, "return_token_ids": True, "return_routing": True}
    asked |= {"ignore_eos": True}
    async with caller:
        reply = await caller.post(COMPLETIONS, **asked, echo=True)
        *chunks, _ = await caller.stream(COMPLETIONS, **asked)
    (choice,) = reply["choices"]
    tokens = [id for response in responses for id in response.token_ids]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (PROMPT, tokens)
    assert [id for chunk in chunks for id in chunk["choices"][0]["token_ids"]] == tokens
    scored = [token.logprob for response in responses for token in response.prompt_logprobs]
    scored += [token.logprob for response in responses for token in response.logprobs]
    first, *rest = choice["logprobs"]["token_logprobs"]
    assert first is None
    assert rest == pytest.approx(scored[1:], abs=1e-4)
    experts = [list(layer.experts) for response in responses for one in response.routing for layer in one.layers]
    assert [layer["experts"] for position in choice["routing"] for layer in position] == experts
    await service.idle()


async def test_several_prompts_and_answers_at_once(service: Service) -> None:
    caller = await start(service)
    prompts = [PROMPT, PROMPT[5:], PROMPT[9:]]
    common = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    async with caller:
        alone = [(await caller.complete(prompt, **common))["choices"][0]["token_ids"] for prompt in prompts]
        reply = await caller.complete(prompts, **common, n=2)
    assert [choice["token_ids"] for choice in reply["choices"]] == [ids for ids in alone for _ in range(2)]
    assert reply["usage"]["prompt_tokens"] == sum(map(len, prompts))
    await service.idle()

"""Several answers of a real router to one request: each is that of a call of its own, and the prompt is read once."""

from typing import Any

import pytest

from tests.unit.front.calls import Responses, check_one_end
from tests.unit.router.service import Service, ask
from tests.unit.router.test_resumed_answers import told

PROMPT = [(7 * at) % 60 + 3 for at in range(70)]
TOKENS = 12
SEED = 7
PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 1.0},
    "penalized": {"temperature": 1.0, "repetition_penalty": 1.2, "top_p": 0.95, "min_tokens": 5, "logprobs": 2},
    "routed": {"temperature": 1.0, "return_routing": True, "prompt_logprobs": 1},
}


def without_prompt(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what comes with the first one only."""
    layers = len(answer["experts"]) // (len(PROMPT) + TOKENS - 1)
    return answer | {
        "scored": answer["scored"][len(PROMPT) :],
        "logprobs": answer["logprobs"][len(PROMPT) :],
        "experts": answer["experts"][layers * len(PROMPT) :],
    }


@pytest.mark.parametrize("name", PARAMS)
async def test_each_is_the_answer_of_a_call_with_its_seed(service: Service, name: str) -> None:
    await service.start()
    fields = {"seed": SEED} | PARAMS[name]
    calm = [told(await ask(service, PROMPT, TOKENS, **fields | {"seed": SEED + index})) for index in range(4)]
    responses = await ask(service, PROMPT, TOKENS, **fields, n=4)
    for index, expected in enumerate(calm):
        answer = told(of(responses, index))
        if index and name == "routed":
            expected = without_prompt(expected)
        assert answer == expected | {"logprobs": pytest.approx(expected["logprobs"], abs=1e-4)}, index
    await service.idle()


async def test_the_prompt_is_read_once(service: Service) -> None:
    """All but its last block comes from the cache, of the one router that all answers go to."""
    await service.start(routers=2)
    responses = await ask(service, PROMPT, TOKENS, n=6, temperature=1.0, seed=3)
    cached = [of(responses, index)[-1].usage.cached_prompt_tokens for index in range(6)]
    assert cached[0] == 0
    assert set(cached[1:]) == {len(PROMPT) // 16 * 16}
    await service.idle()


def of(responses: Responses, index: int) -> Responses:
    answer = [response for response in responses if response.index == index]
    check_one_end(answer)
    return answer

"""Whatever a Front asks, it is refused by itself or computed: no value reaches a step that fails there."""

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_service.engine.request import Event
from router_service.protocol.messages import SamplingParams, Submit
from router_service.protocol.submit_checks import InvalidSubmitError, check_submit
from router_service.router.inbox import Inbox
from router_service.router.router_requests import RouterRequests
from router_service.router.step_summaries import StepSummaries
from tests.support.mesh import Mesh, tokens_of
from tests.support.tiny import Tiny
from tests.unit.front.calls import ids_of
from tests.unit.router.service import Service, ask

VOCABULARY = 260
LARGE = [0, 1, 2, 20, 259, 260, 1 << 31, (1 << 63) - 1, -1, -(1 << 63)]
INTEGERS = st.sampled_from(LARGE) | st.integers(-3, 300)
# All that msgpack carries: denormals, infinities and NaN with them.
FLOATS = st.floats() | st.sampled_from([1e-50, 1e-45, 1e-38, 1e-6, 1.0, 3.4e38, -0.0, -1e-45, 2.0, 0.5])
COUNTS = st.none() | st.integers(0, 22) | INTEGERS
SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 4) | INTEGERS,
    temperature=FLOATS,
    top_k=st.integers(0, 4) | INTEGERS,
    top_p=FLOATS,
    min_p=FLOATS,
    repetition_penalty=st.just(1.0) | FLOATS,
    frequency_penalty=st.just(0.0) | FLOATS,
    presence_penalty=st.just(0.0) | FLOATS,
    seed=st.sampled_from([0, (1 << 64) - 1]) | INTEGERS,
    stop_token_ids=st.lists(st.integers(0, 259) | INTEGERS, max_size=3).map(tuple),
    ignore_eos=st.booleans(),
    logprobs=COUNTS,
    min_tokens=st.integers(0, 2) | INTEGERS,
    logit_bias=st.dictionaries(st.integers(0, 259) | INTEGERS, st.just(1.0) | FLOATS, max_size=3),
    prompt_logprobs=COUNTS,
)
IDS = st.lists(st.integers(0, 259), min_size=1, max_size=5)
SUBMITS = st.builds(
    Submit,
    stream=st.just(1),
    request_id=st.just("a"),
    prompt=IDS | st.lists(INTEGERS, max_size=3),
    sampling=SAMPLING,
    generated=st.just([]) | IDS | st.lists(INTEGERS, max_size=3),
    deadline_seconds=st.none() | st.floats(),
    return_routing=st.booleans(),
    return_scores=st.booleans(),
    priority=INTEGERS,
    reported=st.integers(0, 3) | INTEGERS,
    cache_salt=st.binary(max_size=40),
)


def changed(sampling: dict[str, Any] | None = None, **fields: Any) -> Submit:
    return Submit(
        **{
            "stream": 1,
            "request_id": "a",
            "prompt": [3, 4],
            "sampling": SamplingParams(**{"max_tokens": 3} | (sampling or {})),
        }
        | fields
    )


@pytest.mark.parametrize(
    ("submit", "message"),
    [
        (changed(prompt=[]), "prompt: has no tokens"),
        (changed(prompt=[3, 260]), "prompt: token 260 is not in the vocabulary, 0 to 259"),
        (changed(prompt=[-1]), "prompt: token -1 is not in the vocabulary"),
        (changed(generated=[260]), "generated: token 260 is not"),
        (changed(generated=[1, 2, 3]), "generated: is 3 tokens, must be 0 to 2"),
        (changed(reported=3), "reported: is 3, must be 0 to 2"),
        (changed(deadline_seconds=math.nan), "deadline_seconds: is nan"),
        (changed({"stop_token_ids": (260,)}), "stop_token_ids: token 260"),
        (changed({"stop_token_ids": (-1,)}), "stop_token_ids: token -1"),
        (changed({"logit_bias": {260: 1.0}}), "logit_bias: token 260"),
        (changed({"logit_bias": {2: math.nan}}), "logit_bias[2]: is nan, must be -3.4e+38 to 3.4e+38"),
        (changed({"max_tokens": 0}), "max_tokens: is 0, must be 1 to 2147483647"),
        (changed({"min_tokens": 4}), "min_tokens: is 4, must be 0 to 3"),
        (changed({"top_k": -1}), "top_k: is -1"),
        (changed({"seed": -1}), "seed: is -1"),
        (changed({"logprobs": -1}), "logprobs: is -1, must be 0 to 1024"),
        (changed({"prompt_logprobs": 1 << 40}), "prompt_logprobs: is 1099511627776"),
        (changed({"temperature": math.inf}), "temperature: is inf"),
        (changed({"repetition_penalty": 1e-45}), "repetition_penalty: is 1e-45"),
        (changed({"top_p": 1.5}), "top_p: is 1.5, must be 0.0 to 1.0"),
    ],
)
def test_a_value_out_of_bounds_is_named(submit: Submit, message: str) -> None:
    with pytest.raises(InvalidSubmitError) as caught:
        check_submit(submit, VOCABULARY)
    assert str(caught.value).startswith(message)


@pytest.fixture(scope="module")
def mesh(tiny: Callable[..., Tiny]) -> Iterator[Mesh]:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        yield mesh


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SUBMITS)
def test_any_request_is_refused_or_computed(mesh: Mesh, submit: Submit) -> None:
    """What is computed has finite log-probabilities and tokens of the vocabulary; nothing is INTERNAL."""
    inbox = Inbox()
    requests = RouterRequests(mesh.engine, inbox, StepSummaries(mesh.engine.requests))
    requests.submit(1, msgspec.msgpack.decode(msgspec.msgpack.encode(submit), type=Submit))
    events = inbox.run_queued(wait=False)
    while not events or (events[-1].finish is None and events[-1].failure is None):
        events += mesh.engine.step()
    for request in mesh.engine.requests:
        mesh.engine.requests.forget(request.key)
    check_events(events)
    assert (mesh.blocks_used, mesh.engine.idle(), mesh.engine.request_faults) == (0, True, 0)


def check_events(events: list[Event]) -> None:
    if (failure := events[-1].failure) is not None:
        assert failure.code in ("INVALID_ARGUMENT", "DEADLINE_EXCEEDED"), failure
        assert "step failed" not in failure.message
        return
    assert all(0 <= token < VOCABULARY for token in tokens_of(events))
    for event in events:
        scores = [*(event.prompt_logprobs or []), *([event.logprobs] if event.logprobs else [])]
        values = [one.logprob for score in scores for one in (score.chosen, *score.top)]
        assert all(math.isfinite(value) for value in values)


async def test_a_token_beyond_the_models_vocabulary_costs_its_own_request(service: Service) -> None:
    """The Front of these tests has a larger one: 512 tokens, and the model 260."""
    await service.start()
    calm = [ids_of(await ask(service, prompt, 8)) for prompt in ([3, 1, 4], [1, 5], [9, 2])]
    bad = asyncio.create_task(ask(service, [7, 300], 8))
    others = await asyncio.gather(*(ask(service, prompt, 8) for prompt in ([3, 1, 4], [1, 5], [9, 2])))
    with pytest.raises(grpc.aio.AioRpcError, match="prompt: token 300 is not in the vocabulary, 0 to 259") as caught:
        await bad
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [ids_of(other) for other in others] == calm
    await service.idle()

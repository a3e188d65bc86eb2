"""Each value of a sampling field is refused by the Front, naming it, or draws from finite numbers."""

import math
from typing import Any

import grpc
import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router_service.engine.sampling.adjustments import adjusted
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.sampling.sampler import sample
from router_service.front.api.sampling import resolve_sampling
from router_service.front.errors import RequestError
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import SamplingParams, Submit
from router_service.protocol.submit_checks import check_submit
from router_service.text.generation_config import SamplingDefaults

VOCABULARY = 64
LIMITS = LengthLimits(context=100, prompt=80, vocabulary=VOCABULARY)
# Every float32, with those at which float32 arithmetic ends or begins.
FLOATS = st.floats(width=32) | st.sampled_from(
    [np.float32(x).item() for x in (1e-45, 1e-38, 1.2e-38, 1e-6, 0.9999999, 1.0, 1e30, 3.4e38, -2.0, 2.0)]
)
UINTS = st.integers(0, (1 << 32) - 1) | st.integers(0, 70)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), FLOATS),
        **dict.fromkeys(("frequency_penalty", "presence_penalty"), FLOATS),
        "top_k": st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-3, 70),
        **dict.fromkeys(("max_tokens", "min_tokens", "logprobs", "prompt_logprobs"), UINTS),
        "seed": st.integers(0, (1 << 64) - 1),
        "stop_token_ids": st.lists(UINTS, max_size=3),
        "logit_bias": st.dictionaries(UINTS, FLOATS, max_size=3),
    },
)
LOGITS = st.sampled_from([1.0, 30.0, 1e4, 1e-30])


def accepted(fields: dict[str, Any], defaults: SamplingDefaults) -> SamplingParams | None:
    """What the Front makes of the fields; None where it refuses one of them, which it must name."""
    try:
        return resolve_sampling(pb.Sampling(**fields), defaults, LIMITS, 10)
    except RequestError as error:
        refusal = error
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert any(refusal.message.startswith(f"sampling.{name}") for name in fields), refusal.message
    return None


@settings(max_examples=400, deadline=None)
@given(FIELDS, LOGITS, st.booleans())
@example({"temperature": 1e-45}, 1e4, False)
@example({"repetition_penalty": 1e-6}, 1e4, False)
@example({"repetition_penalty": 1e30}, 1e4, True)
@example({"top_p": 1e-45, "min_p": 1e-45}, 1.0, False)
def test_what_is_accepted_draws_from_finite_numbers(fields: dict[str, Any], spread: float, negative: bool) -> None:
    if (params := accepted(fields, SamplingDefaults())) is None:
        return
    check_submit(Submit(1, "a", [3, 4], params), VOCABULARY)
    logits_BV = torch.randn(1, VOCABULARY, generator=torch.manual_seed(3)) * spread
    logits_BV = -logits_BV.abs() if negative else logits_BV
    # Each token was there, so that each is penalized.
    row = SampleRow(params, [*range(VOCABULARY)] * 2, VOCABULARY)
    with adjusted(logits_BV, [row]):
        assert not logits_BV.isnan().any()
        assert logits_BV.isfinite().any()
        best = logits_BV.max()
    (drawn,) = sample(logits_BV.clone(), [row])
    assert 0 <= drawn.token < VOCABULARY
    if params.temperature < 1e-30 and params.temperature > 0:
        with adjusted(logits_BV, [row]):
            assert logits_BV[0, drawn.token] == best
    scores = [] if drawn.logprobs is None else [drawn.logprobs.chosen, *drawn.logprobs.top]
    assert all(math.isfinite(score.logprob) for score in scores)

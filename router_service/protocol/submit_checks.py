"""What a router checks of a Front's request before any step has it: an id or a size out of bounds would fail there.

The Front has checked what its caller sent. Yet it may be of another version, or serve another checkpoint's tokenizer,
and what raises in the scheduler is nobody's own fault any more. N is the vocabulary.
"""

import math
from collections.abc import Collection

from router_service.protocol.messages import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY, SamplingParams, Submit

MAX_INT32 = (1 << 31) - 1
MAX_SEED = (1 << 64) - 1
# More best tokens than a Front may ask for; each is an entry of every output.
MAX_BEST = 1024
# Factors are computed in float32.
MAX_FACTOR = 3.4e38


class InvalidSubmitError(ValueError):
    """A request that cannot be computed: names the field, its value and the bounds."""


def check_submit(message: Submit, vocabulary: int) -> None:
    """Check all that is used as an index, a size or a factor.

    Raises:
        InvalidSubmitError: the first that is out of bounds.
    """
    if not message.prompt:
        raise InvalidSubmitError("prompt: has no tokens, one at least is required")
    _check_sampling(message.sampling, vocabulary)
    _ids("prompt", message.prompt, vocabulary)
    _ids("generated", message.generated, vocabulary)
    # With all of its tokens it would have ended, and goes on for ever with more.
    _within("generated", len(message.generated), 0, message.sampling.max_tokens - 1, "tokens")
    _within("reported", message.reported, 0, len(message.prompt) + len(message.generated))
    if message.deadline_seconds is not None and math.isnan(message.deadline_seconds):
        raise InvalidSubmitError("deadline_seconds: is nan, must be a number of seconds")


def _check_sampling(params: SamplingParams, vocabulary: int) -> None:
    _ids("stop_token_ids", params.stop_token_ids, vocabulary)
    _ids("logit_bias", params.logit_bias, vocabulary)
    for id, value in params.logit_bias.items():
        _within(f"logit_bias[{id}]", value, -MAX_FACTOR, MAX_FACTOR)
    _within("max_tokens", params.max_tokens, 1, MAX_INT32)
    _within("min_tokens", params.min_tokens, 0, params.max_tokens)
    _within("top_k", params.top_k, 0, MAX_INT32)
    _within("seed", params.seed, 0, MAX_SEED)
    for name in ("logprobs", "prompt_logprobs"):
        if (count := getattr(params, name)) is not None:
            _within(name, count, 0, MAX_BEST)
    _within("temperature", params.temperature, 0.0, MAX_FACTOR)
    _within("repetition_penalty", params.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
    _within("top_p", params.top_p, 0.0, 1.0)
    _within("min_p", params.min_p, 0.0, 1.0)
    _within("frequency_penalty", params.frequency_penalty, -MAX_FACTOR, MAX_FACTOR)
    _within("presence_penalty", params.presence_penalty, -MAX_FACTOR, MAX_FACTOR)


def _ids(field: str, ids: Collection[int], vocabulary: int) -> None:
    # `min` and `max` are quick; the id is looked for only when there is an error to report.
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        id = next(id for id in ids if not 0 <= id < vocabulary)
        raise InvalidSubmitError(f"{field}: token {id} is not in the vocabulary, 0 to {vocabulary - 1}")


def _within(field: str, value: float, least: float, most: float, unit: str = "") -> None:
    # Written so that a NaN is refused too.
    if not least <= value <= most:
        raise InvalidSubmitError(f"{field}: is {value} {unit}".rstrip() + f", must be {least} to {most}")

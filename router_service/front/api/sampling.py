"""Validates a request's sampling fields and fills in defaults."""

import math
import secrets
from collections.abc import Sequence

from router_service.front.errors import invalid
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.text.generation_config import SamplingDefaults
from router_service.protocol.inference_pb2 import Sampling
from router_service.protocol.messages import SamplingParams

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
MAX_TOP_K = (1 << 31) - 1


def resolve_sampling(
    sampling: Sampling, defaults: SamplingDefaults, limits: LengthLimits, prompt_tokens: int
) -> SamplingParams:
    """Return the router's sampling parameters. Stop tokens include end-of-sequence tokens unless `ignore_eos` is set.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field and its bounds.
    """
    check_stops(sampling.stop)
    check_token_ids("sampling.stop_token_ids", sampling.stop_token_ids, limits.vocabulary)
    if len(sampling.stop_token_ids) > MAX_STOP_TOKENS:
        raise invalid(
            "sampling.stop_token_ids", f"at most {MAX_STOP_TOKENS} tokens, got {len(sampling.stop_token_ids)}"
        )
    eos = () if sampling.ignore_eos else defaults.eos_token_ids
    return SamplingParams(
        max_tokens=_max_tokens(sampling, defaults, limits, prompt_tokens),
        temperature=_float(sampling, "temperature", defaults.temperature, low=0.0, high=math.inf),
        top_k=_integer(sampling, "top_k", defaults.top_k, low=0, high=MAX_TOP_K),
        top_p=_float(sampling, "top_p", defaults.top_p, low=0.0, high=1.0, open_low=True),
        min_p=_float(sampling, "min_p", defaults.min_p, low=0.0, high=1.0),
        repetition_penalty=_float(
            sampling, "repetition_penalty", defaults.repetition_penalty, low=0.0, high=math.inf, open_low=True
        ),
        frequency_penalty=_float(sampling, "frequency_penalty", default=0.0, low=-2.0, high=2.0),
        presence_penalty=_float(sampling, "presence_penalty", default=0.0, low=-2.0, high=2.0),
        seed=sampling.seed if sampling.HasField("seed") else secrets.randbits(63),
        stop_token_ids=tuple(dict.fromkeys((*sampling.stop_token_ids, *eos))),
        ignore_eos=sampling.ignore_eos,
        logprobs=_logprobs(sampling),
    )


def check_token_ids(field: str, ids: Sequence[int], vocabulary: int) -> None:
    """Check that every id is below `vocabulary`.

    Raises:
        RequestError: INVALID_ARGUMENT that names the first that is not.
    """
    # `max` is quick; the index is searched for only when there is an error to report.
    if ids and max(ids) >= vocabulary:
        index = next(index for index, id in enumerate(ids) if id >= vocabulary)
        raise invalid(f"{field}[{index}]", f"token {ids[index]} is not in the vocabulary, 0 to {vocabulary - 1}")


def check_stops(stops: Sequence[str]) -> None:
    """Check the number of stop strings and their lengths.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if len(stops) > MAX_STOPS:
        raise invalid("sampling.stop", f"at most {MAX_STOPS} stop strings, got {len(stops)}")
    for index, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise invalid(
                f"sampling.stop[{index}]", f"must have 1 to {MAX_STOP_CHARACTERS} characters, has {len(stop)}"
            )


def _max_tokens(sampling: Sampling, defaults: SamplingDefaults, limits: LengthLimits, prompt_tokens: int) -> int:
    left = limits.context - prompt_tokens
    if not sampling.HasField("max_tokens"):
        return min(left, defaults.max_tokens or left)
    if not 1 <= sampling.max_tokens <= left:
        problem = (
            f"must be 1 to {left}, what a prompt of {prompt_tokens} tokens leaves of the context of {limits.context}"
        )
        raise invalid("sampling.max_tokens", f"{problem}, got {sampling.max_tokens}")
    return sampling.max_tokens


def _logprobs(sampling: Sampling) -> int | None:
    """How many log-probabilities of each token are wanted; None for none at all, 0 for the chosen token's only."""
    if not sampling.HasField("logprobs"):
        return None
    return _integer(sampling, "logprobs", default=0, low=0, high=MAX_LOGPROBS)


def _float(sampling: Sampling, field: str, default: float, *, low: float, high: float, open_low: bool = False) -> float:
    if not sampling.HasField(field):
        return default
    value = float(getattr(sampling, field))
    if math.isfinite(value) and (low < value if open_low else low <= value) and value <= high:
        return value
    bounds = f"{'over' if open_low else 'at least'} {low:g}"
    bounds += " and finite" if math.isinf(high) else f" and at most {high:g}"
    raise invalid(f"sampling.{field}", f"must be {bounds}, got {value:g}")


def _integer(sampling: Sampling, field: str, default: int, *, low: int, high: int) -> int:
    if not sampling.HasField(field):
        return default
    value = int(getattr(sampling, field))
    if not low <= value <= high:
        raise invalid(f"sampling.{field}", f"must be {low} to {high}, got {value}")
    return value

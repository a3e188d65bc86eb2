"""Validates a request's sampling fields and fills in defaults."""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence

from experts.host.shown import shown
from router_service.front.errors import invalid
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol.inference_pb2 import Continuation, Sampling
from router_service.protocol.messages import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY, SamplingParams
from router_service.text.generation_config import MAX_STOP_CHARACTERS, MAX_STOPS, SamplingDefaults
from router_service.text.tokenizer import Tokenizer

MAX_LOGPROBS = 20
MAX_STOP_TOKENS = 64
MAX_BIASED_TOKENS = 300
MAX_BIAS = 100.0
# Ids that become Python's at once: that holds the interpreter for about a millisecond, on a thread too.
PIECE_TOKENS = 1 << 14
MAX_TOP_K = (1 << 31) - 1


def resolve_sampling(
    sampling: Sampling,
    defaults: SamplingDefaults,
    limits: LengthLimits,
    prompt_tokens: int,
    special_stops: Iterable[int] = (),
    tokenizer: Tokenizer | None = None,
) -> SamplingParams:
    """Return the router's sampling parameters. Stop tokens include end-of-sequence tokens unless `ignore_eos` is set.

    Args:
        special_stops: the special tokens among the stop strings, see `special_stop_ids`.
        tokenizer: knows the texts of tokens, for errors about them.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field and its bounds.
    """
    check_stops(sampling.stop)
    check_stop_tokens(sampling.stop_token_ids, limits.vocabulary, tokenizer)
    # A checkpoint may name tokens that its model does not have: they are never drawn, and routers refuse them.
    eos = () if sampling.ignore_eos else defaults.eos_token_ids
    implied = [id for id in (*special_stops, *eos) if id < limits.vocabulary]
    max_tokens = _max_tokens(sampling, defaults, limits, prompt_tokens)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_float(sampling, "temperature", defaults.temperature, low=0.0, high=math.inf),
        top_k=max(0, _integer(sampling, "top_k", defaults.top_k, low=-1, high=MAX_TOP_K)),
        top_p=_float(sampling, "top_p", defaults.top_p, low=0.0, high=1.0, open_low=True),
        min_p=_float(sampling, "min_p", defaults.min_p, low=0.0, high=1.0),
        repetition_penalty=_float(
            sampling,
            "repetition_penalty",
            defaults.repetition_penalty,
            low=MIN_REPETITION_PENALTY,
            high=MAX_REPETITION_PENALTY,
        ),
        frequency_penalty=_float(sampling, "frequency_penalty", default=0.0, low=-2.0, high=2.0),
        presence_penalty=_float(sampling, "presence_penalty", default=0.0, low=-2.0, high=2.0),
        seed=sampling.seed if sampling.HasField("seed") else secrets.randbits(63),
        stop_token_ids=tuple(dict.fromkeys((*sampling.stop_token_ids, *implied))),
        ignore_eos=sampling.ignore_eos,
        logprobs=_logprobs(sampling, "logprobs"),
        min_tokens=_min_tokens(sampling.min_tokens, max_tokens) or defaults.shortest(prompt_tokens, max_tokens),
        logit_bias=checked_bias(sampling.logit_bias, limits.vocabulary, tokenizer),
        prompt_logprobs=_logprobs(sampling, "prompt_logprobs"),
    )


def stop_strings(sampling: Sampling, defaults: SamplingDefaults) -> list[str]:
    """Return the stop strings of an answer: the request's, else the checkpoint's unless `ignore_eos` is set.

    Raises:
        RequestError: INVALID_ARGUMENT for too many, or an empty or too long one.
    """
    check_stops(sampling.stop)
    return list(sampling.stop) or ([] if sampling.ignore_eos else list(defaults.stop))


def special_stop_ids(stops: Sequence[str], tokenizer: Tokenizer) -> dict[int, str]:
    """Return the ids of the stop strings that are special tokens, with these strings.

    An answer's text has no special tokens, so as texts they would never be found.
    """
    ids = {tokenizer.id_of(stop): stop for stop in stops}
    return {id: stop for id, stop in ids.items() if id is not None and id in tokenizer.special_ids}


def check_stop_tokens(ids: Sequence[int], vocabulary: int, tokenizer: Tokenizer | None = None) -> None:
    """Check the number of stop tokens and their ids.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    check_token_ids("sampling.stop_token_ids", ids, vocabulary, tokenizer)
    if len(ids) > MAX_STOP_TOKENS:
        raise invalid("sampling.stop_token_ids", f"at most {MAX_STOP_TOKENS} tokens, got {len(ids)}")


def checked_bias(bias: Mapping[int, float], vocabulary: int, tokenizer: Tokenizer | None = None) -> dict[int, float]:
    """Return the logit bias of each token.

    Raises:
        RequestError: INVALID_ARGUMENT for too many tokens, an unknown one, or a bias out of bounds.
    """
    if len(bias) > MAX_BIASED_TOKENS:
        raise invalid("sampling.logit_bias", f"at most {MAX_BIASED_TOKENS} tokens, got {len(bias)}")
    for id, value in bias.items():
        field = f"sampling.logit_bias[{id}]"
        if id >= vocabulary:
            raise invalid(field, f"{named_token(id, tokenizer)} is not in the vocabulary, 0 to {vocabulary - 1}")
        # Written so that a NaN is refused too.
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise invalid(field, f"must be at least {-MAX_BIAS:g} and at most {MAX_BIAS:g}, got {value:g}")
    return dict(bias)


def checked_continuation(
    before: Continuation, max_tokens: int, vocabulary: int, tokenizer: Tokenizer | None = None
) -> list[int]:
    """Return the tokens that an earlier call has delivered.

    Raises:
        RequestError: INVALID_ARGUMENT for more than the answer may have, or an unknown one.
    """
    if len(before.token_ids) > max_tokens:
        problem = (
            f"has {len(before.token_ids)} tokens, the answer's max_tokens is {max_tokens}: send those of this answer"
        )
        raise invalid("continuation.token_ids", problem)
    check_token_ids("continuation.token_ids", before.token_ids, vocabulary, tokenizer)
    return list(before.token_ids)


def check_token_ids(field: str, ids: Sequence[int], vocabulary: int, tokenizer: Tokenizer | None = None) -> None:
    """Check that every id is below `vocabulary`.

    Raises:
        RequestError: INVALID_ARGUMENT that names the first that is not, with its text if `tokenizer` has it.
    """
    # `max` is quick; the index is searched for only when there is an error to report.
    if ids and max(ids) >= vocabulary:
        index = next(index for index, id in enumerate(ids) if id >= vocabulary)
        named = named_token(ids[index], tokenizer)
        raise invalid(f"{field}[{index}]", f"{named} is not in the vocabulary, 0 to {vocabulary - 1}")


def checked_ids(field: str, ids: Sequence[int], vocabulary: int, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a message's field as a list, in pieces between which other threads run.

    Raises:
        RequestError: INVALID_ARGUMENT naming `field` and the first id that is not below `vocabulary`.
    """
    found: list[int] = []
    for start in range(0, len(ids), PIECE_TOKENS):
        piece = ids[start : start + PIECE_TOKENS]
        if max(piece) >= vocabulary:
            check_token_ids(field, ids, vocabulary, tokenizer)
        found += piece
    return found


def named_token(id: int, tokenizer: Tokenizer | None) -> str:
    """Return what an error calls a token: its id and, if `tokenizer` has it, its text."""
    text = tokenizer.text_of(id) if tokenizer is not None else ""
    return f"token {id} ({shown(text)})" if text else f"token {id}"


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
        return defaults.longest(prompt_tokens, left)
    if not 1 <= sampling.max_tokens <= left:
        problem = (
            f"must be 1 to {left}, what a prompt of {prompt_tokens} tokens leaves of the context of {limits.context}"
        )
        raise invalid("sampling.max_tokens", f"{problem}, got {sampling.max_tokens}")
    return sampling.max_tokens


def _min_tokens(min_tokens: int, max_tokens: int) -> int:
    if min_tokens > max_tokens:
        raise invalid(
            "sampling.min_tokens",
            f"must be 0 to {max_tokens}, the answer's max_tokens, got {min_tokens}: lower it or raise max_tokens",
        )
    return min_tokens


def _logprobs(sampling: Sampling, field: str) -> int | None:
    """How many best log-probabilities of each token are wanted; None for none at all, 0 for the token's own only."""
    return _integer(sampling, field, default=0, low=0, high=MAX_LOGPROBS) if sampling.HasField(field) else None


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

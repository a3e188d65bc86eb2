"""Sampling fields of a body as `pb.Sampling`; bounds are checked where those of gRPC are."""

from typing import Any

from router_service.front.errors import invalid
from router_service.front.openai.requests.fields import MAX_UINT32, GenerationBody
from router_service.front.openai.requests.structured import set_structured
from router_service.protocol import inference_pb2 as pb

# The same name and meaning in both APIs.
PLAIN = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "skip_special_tokens",
    "prompt_logprobs",
)
MIN_SEED, MAX_SEED = -(1 << 63), (1 << 64) - 1


def sampling_of(body: GenerationBody) -> pb.Sampling:
    """Return how the answer is drawn.

    Raises:
        RequestError: INVALID_ARGUMENT, a value has no meaning.
    """
    plain: dict[str, Any] = {name: value for name in PLAIN if (value := getattr(body, name)) is not None}
    sampling = pb.Sampling(**plain)
    if body.seed is not None:
        sampling.seed = _seed(body.seed)
    sampling.stop.extend([body.stop] if isinstance(body.stop, str) else body.stop or ())
    sampling.stop_token_ids.extend(body.stop_token_ids or ())
    sampling.include_stop_text = bool(body.include_stop_str_in_output)
    for token, bias in (body.logit_bias or {}).items():
        sampling.logit_bias[_token_of(token)] = bias
    set_structured(sampling, body)
    return sampling


def _seed(seed: int) -> int:
    """A negative one, which some clients send, counts as the number with the same 64 bits."""
    if not MIN_SEED <= seed <= MAX_SEED:
        raise invalid("sampling.seed", f"must be {MIN_SEED} to {MAX_SEED}, got {str(seed)[:32]}")
    return seed & MAX_SEED


def _token_of(written: str) -> int:
    """A key of `logit_bias`: JSON has only texts for keys."""
    if not (written.isascii() and written.isdecimal() and len(written) <= len(str(MAX_UINT32))):
        raise invalid(f"sampling.logit_bias[{written[:32]}]", "must be the id of a token, such as 50256")
    if (token := int(written)) > MAX_UINT32:
        raise invalid(f"sampling.logit_bias[{written}]", f"must be a token's id, at most {MAX_UINT32}")
    return token

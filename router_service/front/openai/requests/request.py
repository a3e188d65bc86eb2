"""The parts of a generation that are neither its input nor its sampling."""

from router_service.front.api.scheduling import fallback_named
from router_service.front.errors import invalid
from router_service.front.openai.requests.fields import GenerationBody
from router_service.front.openai.requests.sampling import sampling_of
from router_service.protocol import inference_pb2 as pb

# What gRPC's fields are called here; the longest name that a field begins with counts.
NAMES = {
    "sampling": "",
    "sampling.include_stop_text": "include_stop_str_in_output",
    "request_id": "request_id",
}


def request_of(body: GenerationBody) -> pb.GenerateRequest:
    """Return a request without an input.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    made = pb.GenerateRequest(
        sampling=sampling_of(body),
        n=body.n or 0,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        fallback=fallback_named(body.fallback or ""),
        return_routing=bool(body.return_routing),
        echo=wants_prompt(body),
    )
    if body.n == 0:
        raise invalid("n", "must be at least 1, got 0")
    for name in ("add_special_tokens", "allow_special_tokens"):
        if (value := getattr(body, name)) is not None:
            setattr(made, name, value)
    _truncate(made, body.truncate_prompt_tokens)
    return made


def wants_prompt(body: GenerationBody) -> bool:
    """Whether the answer needs the prompt's text or tokens: usage while it streams counts them."""
    options = body.stream_options
    return bool(body.echo or body.return_token_ids or (options is not None and options.continuous_usage_stats))


def _truncate(made: pb.GenerateRequest, tokens: int | None) -> None:
    """-1, vLLM's word for what the model takes, leaves that to the caller."""
    if tokens is None:
        return
    if tokens < 0:
        raise invalid("truncate_prompt_tokens", f"must be at least 1, got {tokens}: leave it out to keep all")
    made.truncate_prompt_tokens = tokens

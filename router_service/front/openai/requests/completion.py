"""A body of /v1/completions as requests of the gRPC API, one for each prompt."""

from collections.abc import Sequence

from router_service.front.errors import invalid
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.front.openai.requests.fields import MAX_UINT32
from router_service.front.openai.requests.request import NAMES, request_of
from router_service.front.openai.requests.structured import structured_names
from router_service.protocol import inference_pb2 as pb

MAX_PROMPTS = 128
MAX_ANSWERS = 1024
# OpenAI's.
DEFAULT_MAX_TOKENS = 16


def completion_requests(body: CompletionBody) -> list[pb.GenerateRequest]:
    """Return the requests, in the order of the prompts.

    Raises:
        RequestError: INVALID_ARGUMENT, a field is not supported or has no meaning.
    """
    if body.suffix:
        raise invalid("suffix", "is not supported: the models served here do not fill in the middle; leave it out")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise invalid("best_of", f"is not supported, use n: must be {body.n or 1} or left out, got {body.best_of}")
    common = request_of(body)
    _set_sampling(common.sampling, body)
    made, prompts = [], prompts_of(body.prompt)
    if (answers := len(prompts) * (body.n or 1)) > MAX_ANSWERS and len(prompts) > 1:
        raise invalid("prompt", f"with n at most {MAX_ANSWERS} answers in all, got {answers}: send several requests")
    for prompt in prompts:
        made.append(pb.GenerateRequest())
        made[-1].CopyFrom(common)
        if isinstance(prompt, str):
            made[-1].prompt = prompt
        else:
            made[-1].tokens.ids.extend(prompt)
            made[-1].ClearField("add_special_tokens")
    return made


def completion_names(body: CompletionBody, index: int, count: int) -> dict[str, str]:
    """Return what gRPC's fields are called in this body, for prompt number `index` of `count`."""
    prompt = f"prompt[{index}]" if count > 1 else "prompt"
    names = {"prompt": prompt, "tokens": prompt, "tokens.ids": prompt, "input": prompt}
    return NAMES | names | structured_names(body)


def prompts_of(prompt: str | list[int | str | list[int]]) -> list[str | list[int]]:
    """Return each prompt: a text or token ids.

    Raises:
        RequestError: INVALID_ARGUMENT, there is none, there are too many, or the list mixes kinds.
    """
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise invalid("prompt", "must not be empty")
    if all(isinstance(one, int) for one in prompt):
        return [_ids("prompt", prompt)]
    if len(prompt) > MAX_PROMPTS:
        raise invalid("prompt", f"at most {MAX_PROMPTS} prompts, got {len(prompt)}: send them in several requests")
    kind = str if isinstance(prompt[0], str) else list
    made: list[str | list[int]] = []
    for index, one in enumerate(prompt):
        if isinstance(one, int) or not isinstance(one, kind):
            raise invalid(f"prompt[{index}]", "must be of the same kind as the others: a text, or a list of token ids")
        made.append(one if isinstance(one, str) else _ids(f"prompt[{index}]", one))
    return made


def drops_answer(body: CompletionBody) -> bool:
    """Whether only the prompt is wanted, with its log-probabilities: `echo` with `max_tokens` 0."""
    return bool(body.echo) and body.max_tokens == 0


def _set_sampling(sampling: pb.Sampling, body: CompletionBody) -> None:
    if body.max_tokens is None:
        sampling.max_tokens = max(DEFAULT_MAX_TOKENS, body.min_tokens or 0)
    elif drops_answer(body):
        sampling.max_tokens = 1
    if body.logprobs is not None:
        sampling.logprobs = body.logprobs
        if body.echo:
            sampling.prompt_logprobs = max(body.logprobs, body.prompt_logprobs or 0)


def _ids(field: str, ids: Sequence[object]) -> list[int]:
    made = [id for id in ids if isinstance(id, int)]
    if made and not 0 <= min(made) <= max(made) <= MAX_UINT32:
        index = next(index for index, id in enumerate(made) if not 0 <= id <= MAX_UINT32)
        raise invalid(f"{field}[{index}]", f"must be a token's id, got {made[index]}")
    return made

"""From a client's request to what routers are sent and how their tokens become text."""

from dataclasses import dataclass

import msgspec

from router_service.front.api.answer_text import TextRules
from router_service.front.api.prompt import EncodedInput, encode_input
from router_service.front.api.prompt_echo import PromptEcho, echo_of
from router_service.front.api.sampling import check_stops, checked_continuation, resolve_sampling, special_stop_ids
from router_service.front.api.scheduling import check_scheduling, current_caller, fallback_of, salt_of
from router_service.front.config import FrontConfig
from router_service.front.errors import invalid
from router_service.front.parsing.parsed import AnswerParser, AnswerParsers
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import SamplingParams, Submit
from router_service.protocol.request_id import MAX_REQUEST_ID_CHARACTERS
from router_service.text.text_model import TextModel

MAX_ANSWERS = 128
SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """For each answer what a router is sent and its parser, None where its text is returned as it is."""

    submits: list[Submit]
    parsers: list[AnswerParser | None]
    rules: TextRules
    echo: PromptEcho | None


async def prepare(
    request: pb.GenerateRequest,
    record: RequestRecord,
    text: TextModel,
    parsers: AnswerParsers | None,
    config: FrontConfig,
    limits: LengthLimits,
) -> Prepared:
    """Check a request and fill in all defaults.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field, its value and its bounds.
    """
    count = _check(request, record)
    caller = current_caller()
    prompt = await encode_input(request, text, limits)
    tokenizer = text.tokenizer
    check_stops(request.sampling.stop)  # before each of them is looked up
    named = special_stop_ids(request.sampling.stop, tokenizer)
    sampling = resolve_sampling(request.sampling, text.defaults, limits, len(prompt.ids), named, tokenizer)
    submit = Submit(
        stream=0,
        request_id=record.request_id,
        prompt=prompt.ids,
        sampling=sampling,
        generated=checked_continuation(request.continuation, sampling.max_tokens, limits.vocabulary, tokenizer),
        return_routing=request.return_routing,
        traced=bool(record.trace_id),
        return_scores=request.return_scores,
        priority=request.priority,
        caller=caller,
        fallback=fallback_of(request),
        cache_salt=salt_of(caller if config.cache_by_caller else "", request.cache_salt),
    )
    return Prepared(
        submits=[_numbered(submit, index) for index in range(count)],
        parsers=[_parser(request, prompt, parsers) for _ in range(count)],
        rules=_rules(request.sampling, sampling, named, text),
        echo=await echo_of(request, prompt, tokenizer),
    )


def _numbered(submit: Submit, index: int) -> Submit:
    """Return the submission of answer number `index`. What is of the prompt comes with the first answer only.

    Without that, the others could not use the prompt's cached blocks.
    """
    if not index:
        return submit
    sampling = msgspec.structs.replace(
        submit.sampling, seed=(submit.sampling.seed + index) % SEEDS, prompt_logprobs=None
    )
    return msgspec.structs.replace(submit, sampling=sampling, traced=False, reported=len(submit.prompt))


def _parser(request: pb.GenerateRequest, prompt: EncodedInput, parsers: AnswerParsers | None) -> AnswerParser | None:
    if parsers is None or request.raw_output or not request.HasField("chat"):
        return None
    return parsers.open(request.chat, prompt.text)


def _rules(given: pb.Sampling, sampling: SamplingParams, named: dict[int, str], text: TextModel) -> TextRules:
    eos = frozenset(text.defaults.eos_token_ids)
    return TextRules(
        stops=tuple(given.stop),
        ends=frozenset(sampling.stop_token_ids),
        include_stop=given.include_stop_text,
        show_special=given.HasField("skip_special_tokens") and not given.skip_special_tokens,
        named=named,
        asked=frozenset(given.stop_token_ids) - (frozenset() if given.ignore_eos else eos),
        eos=eos,
    )


def _check(request: pb.GenerateRequest, record: RequestRecord) -> int:
    """Check the fields that are neither input nor sampling, and return the number of answers.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if len(record.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise invalid("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters, has {len(record.request_id)}")
    if request.return_scores and not request.return_routing:
        raise invalid("return_scores", "comes with the routing: set return_routing too, or leave it out")
    check_scheduling(request)
    if request.n > MAX_ANSWERS:
        raise invalid("n", f"must be 1 to {MAX_ANSWERS} answers, or 0 for one, got {request.n}")
    if request.n > 1 and request.HasField("continuation"):
        raise invalid("continuation", f"goes on with one answer, and n is {request.n}: leave it out, or set n to 1")
    return max(1, request.n)

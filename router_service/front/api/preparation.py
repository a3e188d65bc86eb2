"""From a client's request to what routers are sent and how their tokens become text."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from router_service.front.api.answers.answer_text import TextRules
from router_service.front.api.answers.prompt_echo import PromptEcho, echo_of
from router_service.front.api.prompts.prompt import EncodedInput, encode_input
from router_service.front.api.sampling import checked_continuation, resolve_sampling, special_stop_ids, stop_strings
from router_service.front.api.scheduling import check_scheduling, current_caller, fallback_of, salt_of
from router_service.front.api.structured import check_structured, structured_of
from router_service.front.config import FrontConfig
from router_service.front.errors import invalid
from router_service.front.parsing.parsed import AnswerParser, AnswerParsers
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import SamplingParams, Structured, Submit
from router_service.protocol.request_id import MAX_REQUEST_ID_CHARACTERS
from router_service.structured.checks import StructuredChecks
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


class Preparation:
    """Checks the requests to one model and fills in their defaults. `parsers` are those of its answers."""

    def __init__(self, text: TextModel, parsers: AnswerParsers, checks: StructuredChecks, config: FrontConfig) -> None:
        self._text = text
        self._parsers = parsers
        self._checks = checks
        self._config = config

    async def prepare(self, request: pb.GenerateRequest, record: RequestRecord, limits: LengthLimits) -> Prepared:
        """Return what the answers to a request need.

        Raises:
            RequestError: INVALID_ARGUMENT that names the field, its value and its bounds; RESOURCE_EXHAUSTED where too
                many others are prepared.
        """
        count = _check(request, record)
        prompt = await encode_input(request, self._text, limits)
        stops = stop_strings(request.sampling, self._text.defaults)
        named = special_stop_ids(stops, self._text.tokenizer)
        sampling = await self._sampling(request, prompt, named, limits)
        submit = self._submit(request, record, prompt.ids, sampling, limits)
        parsers = [self._parser(request, prompt) for _ in range(count)]
        return Prepared(
            submits=[_numbered(submit, index) for index in range(count)],
            parsers=parsers,
            rules=self._rules(request.sampling, sampling, named, parsers[0] is not None),
            echo=await echo_of(request, prompt, self._text.tokenizer),
        )

    async def _sampling(
        self, request: pb.GenerateRequest, prompt: EncodedInput, named: Iterable[int], limits: LengthLimits
    ) -> SamplingParams:
        text = self._text
        sampling = resolve_sampling(
            request.sampling, text.defaults, limits, len(prompt.ids), named, tokenizer=text.tokenizer
        )
        return msgspec.structs.replace(sampling, structured=await self._structured(request, prompt.text))

    async def _structured(self, request: pb.GenerateRequest, prompt: str) -> Structured | None:
        """Return what the answer must be: as the request says, or as the choice of its tools does."""
        given = structured_of(request.sampling)
        await check_structured(given, self._checks)
        if not request.HasField("chat"):
            return given
        bound = self._parsers.bound(request.chat, given, prompt)
        if bound != given:
            await check_structured(bound, self._checks, "chat.tools" if given is None else "sampling")
        return bound

    def _submit(
        self,
        request: pb.GenerateRequest,
        record: RequestRecord,
        prompt: list[int],
        sampling: SamplingParams,
        limits: LengthLimits,
    ) -> Submit:
        caller, most, tokenizer = current_caller(), sampling.max_tokens, self._text.tokenizer
        return Submit(
            stream=0,
            request_id=record.request_id,
            prompt=prompt,
            sampling=sampling,
            generated=checked_continuation(request.continuation, most, limits.vocabulary, tokenizer),
            return_routing=request.return_routing,
            traced=bool(record.trace_id),
            return_scores=request.return_scores,
            priority=request.priority,
            caller=caller,
            fallback=fallback_of(request),
            cache_salt=salt_of(caller if self._config.cache_by_caller else "", request.cache_salt),
        )

    def _parser(self, request: pb.GenerateRequest, prompt: EncodedInput) -> AnswerParser | None:
        parsed = request.HasField("chat") and not request.raw_output
        return self._parsers.open(request.chat, prompt.text) if parsed else None

    def _rules(self, given: pb.Sampling, sampling: SamplingParams, named: dict[int, str], parsed: bool) -> TextRules:
        shown = self._parsers.marker_ids if parsed else frozenset[int]()
        if given.HasField("skip_special_tokens") and not given.skip_special_tokens:
            shown = self._text.tokenizer.special_ids
        asked = frozenset(given.stop_token_ids)
        return TextRules(
            stops=stop_strings(given, self._text.defaults),
            ends=frozenset(sampling.stop_token_ids),
            include_stop=given.include_stop_text,
            shown=shown,
            named=named,
            asked=asked if given.ignore_eos else asked.difference(self._text.defaults.eos_token_ids),
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

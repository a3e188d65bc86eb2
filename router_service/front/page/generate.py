"""POST /api/generate: an answer token by token, with where each token was routed, as server-sent events.

Events: `tokens` (prompt or generated, in order), `routing` (one entry a position, in order), of a chat `delta` (what
its tokens add to the reasoning, the text and the tool calls), and at the end `end` or `error`. A request that is
refused before its first token gets an HTTP status and one JSON object instead.

All tokens of an answer are in `tokens`, those of its reasoning, of tool calls and of their markers too: the entries of
`routing` are theirs, one by one.
"""

import json

from aiohttp import web

from router_service.front.api.inference_service import InferenceService
from router_service.front.api.prompts.prompt import encode_input
from router_service.front.api.scheduling import fallback_named
from router_service.front.errors import RequestError, invalid
from router_service.front.http.body import GenerateBody, check_range, read_body
from router_service.front.page.page_writer import PageResponseWriter, ShownPrompt
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of
from router_service.text.text_model import TextModel

# Each position comes with scores of every layer, so this bounds what one page requests of a router.
MAX_PROMPT_TOKENS = 1024
MAX_NEW_TOKENS = 1024
# Of a chat, whose reasoning may be long. One that asks for more than the above goes without routing.
MAX_CHAT_TOKENS = 1 << 15
MAX_SEED = (1 << 64) - 1


class GenerateHandler:
    """Serves the page's generations in the same way as those of gRPC."""

    def __init__(self, inference: InferenceService, text: TextModel, patience_s: float) -> None:
        """A page that reads nothing for `patience_s` loses its answer."""
        self._inference = inference
        self._text = text
        self._patience_s = patience_s

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Stream an answer.

        Raises:
            RequestError: the request was refused before its first token.
        """
        wanted = _request_of(await read_body(request, GenerateBody))
        prompt = (await encode_input(wanted, self._text, self._inference.limits())).ids
        writer = PageResponseWriter(request, self._text.tokenizer, _shown(wanted, prompt), self._patience_s)
        try:
            await self._inference.answer(wanted, writer)
        except RequestError as error:
            if writer.stream is None or writer.done():
                raise
            await writer.send("error", {"error": error.message, "code": error.code.name})
        return writer.ended()


def _request_of(body: GenerateBody) -> pb.GenerateRequest:
    check_range("max_tokens", body.max_tokens, 1, MAX_CHAT_TOKENS if body.messages else MAX_NEW_TOKENS)
    sampling = pb.Sampling(max_tokens=body.max_tokens)
    if body.temperature is not None:
        sampling.temperature = body.temperature
    if body.seed is not None:
        check_range("seed", body.seed, 0, MAX_SEED)
        sampling.seed = body.seed
    fallback = fallback_named(body.fallback)
    request = pb.GenerateRequest(sampling=sampling, return_routing=True, return_scores=True, fallback=fallback)
    if body.messages and body.prompt:
        raise invalid("prompt", "comes without messages; send one of both")
    if body.messages:
        request.chat.CopyFrom(_chat(body))
    elif body.tools or body.template_kwargs:
        raise invalid("tools" if body.tools else "template_kwargs", "is for a chat: send messages, not a prompt")
    else:
        request.prompt = body.prompt
    return request


def _chat(body: GenerateBody) -> pb.Chat:
    try:
        chat = chat_of(body.messages, body.tools)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise invalid(field, problem) from error
    if body.template_kwargs:
        chat.template_kwargs = json.dumps(body.template_kwargs, ensure_ascii=False)
    return chat


def _shown(wanted: pb.GenerateRequest, prompt: list[int]) -> ShownPrompt:
    """Return what the page shows of the prompt, and have no more routing returned than it can take.

    A text is refused where that is not all of it. A chat grows by every turn: a long one goes on, without pictures.

    Raises:
        RequestError: INVALID_ARGUMENT, the text is too long.
    """
    if wanted.WhichOneof("input") == "chat":
        pictured = len(prompt) <= MAX_PROMPT_TOKENS and wanted.sampling.max_tokens <= MAX_NEW_TOKENS
        wanted.return_routing = wanted.return_scores = pictured
        return ShownPrompt(prompt, chat=True) if pictured else ShownPrompt([], len(prompt), chat=True)
    check_range("prompt tokens of the page", len(prompt), 1, MAX_PROMPT_TOKENS)
    # Tokens replace the text as input: it is not encoded again, and the page shows the same ids.
    wanted.tokens.ids.extend(prompt)
    return ShownPrompt(prompt)

"""Each path of the API: what it takes, what it returns, and which errors it may end in."""

from dataclasses import dataclass

import msgspec

from router_service.front.openai.answers.chat_objects import ChatChunk, ChatCompletion
from router_service.front.openai.answers.completion_objects import Completion
from router_service.front.openai.models import ModelList, ModelObject
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.front.openai.requests.token_bodies import DetokenizeBody, TokenizeBody
from router_service.front.openai.responses.body import ResponsesBody
from router_service.front.openai.responses.objects import ResponseEvent, ResponseObject
from router_service.front.openai.server_pages import HealthReply, VersionReply
from router_service.front.openai.tokens import DetokenizeReply, TokenizeReply

Struct = type[msgspec.Struct]
# Of every path: a web page of elsewhere, an unknown Host, a fault of ours.
ALWAYS = (403, 500)
WITH_TOKEN = (401, 429)
WITH_BODY = (400, 413, 504)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `reply` None is another type than JSON, `kind`; `event` is what a stream consists of."""

    path: str
    method: str
    summary: str
    body: Struct | None = None
    reply: Struct | None = None
    kind: str = "application/json"
    event: Struct | None = None
    errors: tuple[int, ...] = ()
    open: bool = False


OPERATIONS = (
    Operation("/v1/models", "get", "Lists the model that is served.", reply=ModelList),
    Operation("/v1/models/{id}", "get", "Describes the model.", reply=ModelObject, errors=(404,)),
    Operation(
        "/v1/chat/completions",
        "post",
        "Answers a conversation; as server-sent events with `stream`.",
        ChatBody,
        ChatCompletion,
        event=ChatChunk,
        errors=(404, 503),
    ),
    Operation(
        "/v1/completions",
        "post",
        "Continues one prompt or several; as server-sent events with `stream`.",
        CompletionBody,
        Completion,
        event=Completion,
        errors=(404, 503),
    ),
    Operation(
        "/v1/responses",
        "post",
        "Answers a text or items; as server-sent events with `stream`.",
        ResponsesBody,
        ResponseObject,
        event=ResponseEvent,
        errors=(404, 503),
    ),
    Operation(
        "/tokenize", "post", "Returns the ids that a generation would use.", TokenizeBody, TokenizeReply, errors=(404,)
    ),
    Operation("/detokenize", "post", "Returns the text of ids.", DetokenizeBody, DetokenizeReply, errors=(404,)),
    Operation("/tokenizer_info", "get", "Returns the special tokens and the chat template."),
    Operation("/health", "get", "200 while requests can be served.", reply=HealthReply, errors=(503,), open=True),
    Operation("/ping", "get", "As /health.", reply=HealthReply, errors=(503,), open=True),
    Operation("/ping", "post", "As /health.", reply=HealthReply, errors=(503,), open=True),
    Operation("/version", "get", "Returns the version.", reply=VersionReply, open=True),
    Operation("/metrics", "get", "Metrics for Prometheus.", kind="text/plain", errors=(503,), open=True),
    Operation("/openapi.json", "get", "This document.", open=True),
)

"""POST /tokenize and /detokenize and GET /tokenizer_info, as vLLM has them."""

import msgspec
from aiohttp import web

from router_service.front.api.inference_service import InferenceService
from router_service.front.errors import invalid
from router_service.front.openai.body import read_json
from router_service.front.openai.errors import named_as
from router_service.front.openai.replies import json_reply, object_reply
from router_service.front.openai.requests.chat import CHAT_NAMES, chat_in
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.front.openai.requests.token_bodies import DetokenizeBody, TokenizeBody
from router_service.front.openai.served_model import ServedModel
from router_service.protocol import inference_pb2 as pb
from router_service.text.text_model import TextModel


class TokenizeReply(msgspec.Struct, frozen=True):
    """The ids; `token_strs` are their texts, where they are asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeReply(msgspec.Struct, frozen=True):
    """The text."""

    prompt: str


class Tokens:
    """Converts between text and token ids."""

    def __init__(self, inference: InferenceService, text: TextModel, model: ServedModel) -> None:
        self._inference = inference
        self._text = text
        self._model = model

    async def tokenize(self, http: web.Request) -> web.Response:
        """Return the ids that a generation would use.

        Raises:
            RequestError: INVALID_ARGUMENT.
        """
        body = await read_json(http, TokenizeBody)
        self._model.check(body.model)
        with named_as(CHAT_NAMES):
            ids = await self._inference.encoded(tokenize_request(body))
        texts = [self._text.tokenizer.text_of(id) for id in ids] if body.return_token_strs else None
        return object_reply(TokenizeReply(len(ids), self._inference.limits().context, ids, texts))

    async def detokenize(self, http: web.Request) -> web.Response:
        """Return the text of token ids.

        Raises:
            RequestError: INVALID_ARGUMENT.
        """
        body = await read_json(http, DetokenizeBody)
        self._model.check(body.model)
        wanted = pb.DetokenizeRequest(ids=body.tokens, skip_special_tokens=bool(body.skip_special_tokens))
        with named_as({"ids": "tokens"}):
            return object_reply(DetokenizeReply(await self._inference.decoded(wanted)))

    async def info(self, _: web.Request) -> web.Response:
        """Return the names of the special tokens, the chat template and the tokenizer's flags."""
        return json_reply(msgspec.json.encode(self._text.settings))


def tokenize_request(body: TokenizeBody) -> pb.TokenizeRequest:
    """Return the request of a body.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    made = pb.TokenizeRequest()
    if body.allow_special_tokens is not None:
        made.allow_special_tokens = body.allow_special_tokens
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "send one of prompt and messages")
    if body.prompt is not None:
        made.prompt = body.prompt
        made.add_special_tokens = body.add_special_tokens is not False
        return made
    chat = ChatBody(
        messages=body.messages or [],
        tools=body.tools,
        documents=body.documents,
        chat_template_kwargs=body.chat_template_kwargs,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
    )
    made.chat.CopyFrom(chat_in(chat))
    return made

"""POST /v1/chat/completions."""

from aiohttp import web

from router_service.front.errors import invalid
from router_service.front.openai.answers.chat_reply import ChatReply
from router_service.front.openai.answers.chat_stream import ChatStream
from router_service.front.openai.body import read_json
from router_service.front.openai.calling import Call
from router_service.front.openai.errors import named_as
from router_service.front.openai.replies import json_reply, made
from router_service.front.openai.requests.chat import chat_names, chat_request
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.front.openai.running import Runner, Wanted
from router_service.front.openai.served_model import ServedModel


class ChatCompletions:
    """Answers chats."""

    def __init__(self, runner: Runner, model: ServedModel) -> None:
        self._runner = runner
        self._model = model

    async def serve(self, http: web.Request) -> web.StreamResponse:
        """Answer a chat.

        Raises:
            RequestError: it was refused, or failed before its first event.
        """
        body = await read_json(http, ChatBody)
        self._model.check(body.model)
        names = chat_names(body)
        with named_as(names):
            wanted = [Wanted(chat_request(body), names)]
        call = Call(http, "chatcmpl", self._model.name, body.request_id or "")
        if not body.stream:
            reply = ChatReply(body, call.head, echoed_in(body))
            await self._runner.collect(call, wanted, reply.add)
            return json_reply(await made(reply), call)
        check_streamed(body.prompt_logprobs)
        return await self._runner.stream(call, wanted, ChatStream(body, call.head, echoed_in(body)))


def echoed_in(body: ChatBody) -> str:
    """Return what `echo` puts before the answer: the last message, if it is the assistant's."""
    last = body.messages[-1] if body.echo and body.messages else {}
    content = last.get("content")
    return content if last.get("role") == "assistant" and isinstance(content, str) else ""


def check_streamed(prompt_logprobs: int | None) -> None:
    """Refuse what a stream has no place for.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if prompt_logprobs is not None:
        raise invalid("prompt_logprobs", "comes without stream: leave one of the two out")

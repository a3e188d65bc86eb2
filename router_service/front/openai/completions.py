"""POST /v1/completions."""

from aiohttp import web

from router_service.front.openai.answers.completion_reply import CompletionReply
from router_service.front.openai.answers.completion_stream import CompletionStream
from router_service.front.openai.body import read_json
from router_service.front.openai.calling import Call
from router_service.front.openai.chat_completions import check_streamed
from router_service.front.openai.errors import named_as
from router_service.front.openai.replies import json_reply, made
from router_service.front.openai.requests.completion import completion_names, completion_requests
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.front.openai.running import Runner, Wanted
from router_service.front.openai.served_model import ServedModel


class Completions:
    """Continues prompts."""

    def __init__(self, runner: Runner, model: ServedModel) -> None:
        self._runner = runner
        self._model = model

    async def serve(self, http: web.Request) -> web.StreamResponse:
        """Continue one prompt or several, side by side.

        Raises:
            RequestError: one was refused, or failed before the first event.
        """
        body = await read_json(http, CompletionBody)
        self._model.check(body.model)
        wanted = wanted_of(body)
        call = Call(http, "cmpl", self._model.name, body.request_id or "")
        if not body.stream:
            reply = CompletionReply(body, call.head)
            await self._runner.collect(call, wanted, reply.add)
            return json_reply(await made(reply), call)
        check_streamed(body.prompt_logprobs)
        return await self._runner.stream(call, wanted, CompletionStream(body, call.head))


def wanted_of(body: CompletionBody) -> list[Wanted]:
    """Return the request of each prompt.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    with named_as(completion_names(body, 0, 1)):
        requests = completion_requests(body)
    return [Wanted(request, completion_names(body, index, len(requests))) for index, request in enumerate(requests)]

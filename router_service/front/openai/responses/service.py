"""POST /v1/responses, and what says that responses cannot be had again."""

import grpc
from aiohttp import web

from router_service.front.errors import RequestError
from router_service.front.openai.body import read_json
from router_service.front.openai.calling import Call
from router_service.front.openai.errors import named_as
from router_service.front.openai.replies import json_reply
from router_service.front.openai.responses.answer import ResponseAnswer, ResponseStream
from router_service.front.openai.responses.body import ResponsesBody
from router_service.front.openai.responses.request import responses_names, responses_request
from router_service.front.openai.running import Runner, Wanted
from router_service.front.openai.served_model import ServedModel

PATH = "/v1/responses"


class Responses:
    """Answers texts and items."""

    def __init__(self, runner: Runner, model: ServedModel) -> None:
        self._runner = runner
        self._model = model

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.post(PATH, self.create), web.route("*", f"{PATH}/{{id:.+}}", self.stored)]

    async def create(self, http: web.Request) -> web.StreamResponse:
        """Answer.

        Raises:
            RequestError: the request was refused, or failed before its first event.
        """
        body = await read_json(http, ResponsesBody)
        self._model.check(body.model)
        names = responses_names(body)
        with named_as(names):
            wanted = [Wanted(responses_request(body), names)]
        call = Call(http, "resp", self._model.name, body.request_id or "")
        if body.stream:
            stream = ResponseStream(body, call.head)
            return await self._runner.stream(call, wanted, stream, stream.fail)
        answer = ResponseAnswer(body, call.head)
        await self._runner.collect(call, wanted, answer.add)
        return json_reply(answer.reply(), call)

    async def stored(self, _: web.Request) -> web.Response:
        """Refuse to return, cancel or delete a response.

        Raises:
            RequestError: NOT_FOUND.
        """
        problem = (
            "responses are not stored here: keep what POST /v1/responses returns, and close its connection to cancel"
        )
        raise RequestError(grpc.StatusCode.NOT_FOUND, problem)

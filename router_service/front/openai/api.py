"""The routes of the OpenAI API, for the application of the Front's HTTP server."""

import msgspec
from aiohttp import web
from prometheus_client.registry import Collector

from router_service.front.api.inference_service import InferenceService
from router_service.front.auth.authenticator import Authenticator
from router_service.front.config import FrontConfig
from router_service.front.health import FrontHealth
from router_service.front.openai.chat_completions import ChatCompletions
from router_service.front.openai.completions import Completions
from router_service.front.openai.models import Models
from router_service.front.openai.replies import json_reply
from router_service.front.openai.running import Runner
from router_service.front.openai.schema.document import openapi
from router_service.front.openai.schema.operations import OPERATIONS
from router_service.front.openai.served_model import ServedModel
from router_service.front.openai.server_pages import ServerPages, installed_version
from router_service.front.openai.tokens import Tokens
from router_service.text.text_model import TextModel


class OpenAiApi:
    """Answers programs that speak OpenAI's API."""

    def __init__(
        self,
        *,
        config: FrontConfig,
        text: TextModel,
        inference: InferenceService,
        authenticator: Authenticator,
        health: FrontHealth,
        collector: Collector,
    ) -> None:
        """`collector` has the series of the metrics page."""
        self.model = ServedModel(inference.model().name)
        self.runner = Runner(inference, authenticator, config.slow_reader_seconds)
        self._models = Models(inference, self.model)
        self._tokens = Tokens(inference, text, self.model)
        self._pages = ServerPages(health, collector)
        self._document = msgspec.json.encode(openapi(OPERATIONS, installed_version()))

    def routes(self) -> list[web.RouteDef]:
        """Return all routes."""
        return [
            web.get("/v1/models", self._models.list),
            web.get("/v1/models/{id:.+}", self._models.one),
            web.post("/v1/chat/completions", ChatCompletions(self.runner, self.model).serve),
            web.post("/v1/completions", Completions(self.runner, self.model).serve),
            web.post("/tokenize", self._tokens.tokenize),
            web.post("/detokenize", self._tokens.detokenize),
            web.get("/tokenizer_info", self._tokens.info),
            web.get("/openapi.json", self._openapi),
            *self._pages.routes(),
        ]

    async def _openapi(self, _: web.Request) -> web.Response:
        return json_reply(self._document)

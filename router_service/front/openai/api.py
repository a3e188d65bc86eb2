"""The routes of the OpenAI API, for the application of the Front's HTTP server."""

from aiohttp import web

from router_service.front.api.inference_service import InferenceService
from router_service.front.auth.authenticator import Authenticator
from router_service.front.config import FrontConfig
from router_service.front.openai.chat_completions import ChatCompletions
from router_service.front.openai.completions import Completions
from router_service.front.openai.models import Models
from router_service.front.openai.running import Runner
from router_service.front.openai.served_model import ServedModel


class OpenAiApi:
    """Answers programs that speak OpenAI's API."""

    def __init__(self, *, config: FrontConfig, inference: InferenceService, authenticator: Authenticator) -> None:
        self._inference = inference
        self.model = ServedModel(inference.model().name)
        self.runner = Runner(inference, authenticator, config.slow_reader_seconds)

    def routes(self) -> list[web.RouteDef]:
        """Return all routes."""
        models = Models(self._inference, self.model)
        return [
            web.get("/v1/models", models.list),
            web.get("/v1/models/{id:.+}", models.one),
            web.post("/v1/chat/completions", ChatCompletions(self.runner, self.model).serve),
            web.post("/v1/completions", Completions(self.runner, self.model).serve),
        ]

"""GET /v1/models and /v1/models/{id}: the one model that is served."""

import time

import msgspec
from aiohttp import web

from router_service.front.api.inference_service import InferenceService
from router_service.front.openai.replies import object_reply
from router_service.front.openai.served_model import ServedModel

OWNER = "expertmesh"


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    """A model; `max_model_len` is the most tokens of prompt and answer together, vLLM's field."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = OWNER
    root: str
    parent: str | None = None
    max_model_len: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    object: str = "list"
    data: list[ModelObject]


class Models:
    """Describes the model."""

    def __init__(self, inference: InferenceService, model: ServedModel) -> None:
        self._inference = inference
        self._model = model
        self._created = int(time.time())

    async def list(self, _: web.Request) -> web.Response:
        """Return a list with the model."""
        return object_reply(ModelList(data=[self._describe()]))

    async def one(self, http: web.Request) -> web.Response:
        """Return the model, by any of its names.

        Raises:
            ModelNotFoundError: it is another one.
        """
        self._model.check(http.match_info["id"])
        return object_reply(self._describe())

    def _describe(self) -> ModelObject:
        name = self._model.name
        return ModelObject(id=name, created=self._created, root=name, max_model_len=self._inference.limits().context)

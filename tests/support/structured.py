"""Structured requests to the bundled model, in the process of the test."""

import json
import re
from collections.abc import Sequence
from datetime import time
from typing import Any

import jsonschema

from cluster.config import BUNDLED, ModelConfig
from cluster.planner.model import open_model
from experts.config import WeightsConfig
from router_service.engine.request import Event, Request
from router_service.protocol.messages import SamplingParams, Structured
from router_service.text.json_tokenizer import JsonTokenizer, load_json_tokenizer
from tests.support.mesh import Mesh

CHAT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
# The bundled model's.
ENDS = (0, 2)


def bundled_tokenizer() -> JsonTokenizer:
    """The bundled model's tokenizer."""
    return load_json_tokenizer(BUNDLED / "tokenizer.json")


def bundled_mesh(**config: Any) -> Mesh:
    """The bundled model in float32, with one shard."""
    plan = open_model(ModelConfig(checkpoint=str(BUNDLED), dtype="float32"), WeightsConfig("dequantized")).plan
    return Mesh(plan, 1, **{"kv_cache_tokens": 16384} | config)


def schema(value: Any) -> Structured:
    """Answers that a JSON schema accepts."""
    return Structured("json_schema", json.dumps(value))


class Answers:
    """Asks a mesh, and reads its answers."""

    def __init__(self, mesh: Mesh, text: str = CHAT) -> None:
        self.mesh = mesh
        self.tokenizer = bundled_tokenizer()
        self.prompt = self.tokenizer.encode(text, add_special_tokens=False)

    def submit(self, structured: Structured | None, generated: Sequence[int] = (), **params: Any) -> int:
        """Hand a request in, at temperature 1.5 and of seed 1 unless `params` say else; return its key."""
        chosen = SamplingParams(**{"max_tokens": 200, "temperature": 1.5, "seed": 1, "structured": structured} | params)
        return self.mesh.submit([*self.prompt, *generated], chosen, prompt_length=len(self.prompt))

    def ask(self, structured: Structured | None, generated: Sequence[int] = (), **params: Any) -> list[Event]:
        """The events of one answer."""
        key = self.submit(structured, generated, **params)
        return self.mesh.drain()[key]

    def request(self, key: int) -> Request:
        """A request that has not ended."""
        return self.mesh.engine.requests[key]

    def text(self, events: Sequence[Event]) -> str:
        """The text of an answer that has not failed."""
        assert [event.failure for event in events if event.failure] == []
        return self.tokenizer.decode([event.token for event in events if event.token is not None])

    def ask_all(self, asked: Sequence[Structured], seed: int = 0, **params: Any) -> list[list[Event]]:
        """The events of all answers, drawn together; the seeds count up from `seed`."""
        keys = [self.submit(one, seed=seed + number, **params) for number, one in enumerate(asked)]
        events = self.mesh.drain(600.0)
        return [events[key] for key in keys]


def formats() -> jsonschema.FormatChecker:
    """The library's checks, but for a time: there it is that of an early draft, which has no offset."""
    checker = jsonschema.FormatChecker()

    # A leap second is a time too, and unknown to Python.
    @checker.checks("time", ValueError)
    def is_time(value: object) -> bool:
        return not isinstance(value, str) or bool(time.fromisoformat(value.replace(":60", ":59")))

    return checker


def check_answer(structured: Structured, text: str) -> None:
    """Check a whole answer by other libraries than the one that made it.

    Raises:
        ValueError: it has not the form that was asked for.
    """
    if structured.kind == "json_schema":
        asked, checker = json.loads(structured.text), jsonschema.Draft202012Validator
        try:
            checker(asked, format_checker=formats()).validate(json.loads(text))
        except jsonschema.ValidationError as error:
            raise ValueError(f"{text!r} against {structured.text}: {error.message}") from error
    elif not re.fullmatch(structured.text, text):
        raise ValueError(f"{text!r} against {structured.text!r}")

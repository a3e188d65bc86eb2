"""/openapi.json is true: requests made from it end in what it says, and never in a fault of ours."""

import asyncio
from collections.abc import Iterator
from typing import Any

import hypothesis
import jsonschema
import pytest
import schemathesis
from schemathesis import checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from router_service.protocol.messages import StreamOutput, Submit
from tests.unit.front.front_fakes import echo
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call

CHECKS = [checks.not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# The same examples each time; how long one takes says nothing.
BOUNDED = hypothesis.settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


def one_token(submit: Submit) -> Iterator[StreamOutput]:
    first = next(echo(submit))
    yield StreamOutput(submit.stream, first.token_ids, first.logprobs, finish="length", timings=first.timings)


async def test_every_path_is_there(caller: Caller) -> None:
    document = await caller.get("/openapi.json")
    for path, methods in document["paths"].items():
        for method in methods:
            async with caller.session.request(method, path.replace("{id}", "tiny")) as response:
                assert response.status in (200, 400), (path, method)
                assert str(response.status) in methods[method]["responses"]


async def test_schemas_are_schemas(caller: Caller) -> None:
    document = await caller.get("/openapi.json")
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for body in ("ChatBody", "TokenizeBody"):
        text = str(document["components"]["schemas"][body]["properties"])
        assert "#/components/schemas/ChatMessage" in text
        assert "#/components/schemas/ToolObject" in text


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_requests_made_from_the_document(world: World, mode: GenerationMode) -> None:
    _, caller = await call(world, script=one_token)
    async with caller:
        document = await caller.get("/openapi.json")
        await asyncio.to_thread(ask_all, document, caller.url, mode)
        # Nothing is left of them.
        assert (await caller.chat(max_tokens=1))["choices"]
        assert world.server.streams == 0


def ask_all(document: dict[str, Any], url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing that could be wrong

        @BOUNDED
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(base_url=url, checks=CHECKS)

        ask()

"""Makes the OpenAPI 3.1 document of the operations, by msgspec's schemas of their objects."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from router_service.front.openai.errors import ErrorReply
from router_service.front.openai.schema.operations import ALWAYS, WITH_BODY, WITH_TOKEN, Operation, Struct

REF = "#/components/schemas/{name}"
JSON = "application/json"
EVENTS = "text/event-stream"
SCHEME = "token"


def openapi(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    _, schemas = msgspec.json.schema_components(_structs(operations), ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ExpertMesh", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {SCHEME: {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    named = f"{operation.method}_{operation.path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}"
    made: dict[str, Any] = {
        "operationId": named,
        "summary": operation.summary,
        "responses": {"200": _answer(operation)} | {str(code): _error(code) for code in _errors(operation)},
    }
    if "{id}" in operation.path:
        schema = {"type": "string", "minLength": 1}
        made["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": schema}]
    if operation.body is not None:
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(operation.body)}}}
    if not operation.open:
        # Where no token is configured, none is needed.
        made["security"] = [{}, {SCHEME: []}]
    return made


def _errors(operation: Operation) -> list[int]:
    more = () if operation.open else WITH_TOKEN
    return sorted({*ALWAYS, *more, *(WITH_BODY if operation.body is not None else ()), *operation.errors})


def _answer(operation: Operation) -> dict[str, Any]:
    schema = {"type": "object"} if operation.reply is None else _ref(operation.reply)
    content = {operation.kind: {"schema": schema if operation.kind == JSON else {"type": "string"}}}
    if operation.event is not None:
        text = f"events of which `data` is a {operation.event.__name__}, an ErrorReply as the last one, or [DONE]"
        content[EVENTS] = {"schema": {"type": "string", "description": text}}
    return {"description": HTTPStatus(200).phrase, "content": content}


def _error(code: int) -> dict[str, Any]:
    return {"description": HTTPStatus(code).phrase, "content": {JSON: {"schema": _ref(ErrorReply)}}}


def _ref(struct: Struct) -> dict[str, Any]:
    return {"$ref": REF.format(name=struct.__name__)}


def _structs(operations: Sequence[Operation]) -> list[Struct]:
    found = {part for one in operations for part in (one.body, one.reply, one.event) if part is not None}
    return sorted((*found, ErrorReply), key=lambda struct: struct.__name__)

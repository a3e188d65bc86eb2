"""Structured output as OpenAI's `response_format`, and vLLM's `structured_outputs` and `guided_*`, ask for it."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from router_service.front.errors import invalid
from router_service.front.openai.requests.fields import GenerationBody, ResponseFormat, StructuredOutputs
from router_service.protocol import inference_pb2 as pb

# In `pb.Sampling`; "structured" is the oneof of them.
KINDS = ("json_object", "json_schema", "regex", "choice", "grammar", "structured")
FORMATS = ("text", "json_object", "json_schema")


def set_structured(sampling: pb.Sampling, body: GenerationBody) -> None:
    """Set what the answer must be, if the body says so.

    Raises:
        RequestError: INVALID_ARGUMENT, it says so twice, or in a form that is not known.
    """
    wanted = list(_wanted(body))
    if len(wanted) > 1:
        named = " and ".join(field for field, _, _ in wanted)
        raise invalid(wanted[1][0], f"an answer has one form: send one of {named}")
    for field, kind, value in wanted:
        if kind == "choice":
            if not value:
                raise invalid(field, "must have at least one text")
            sampling.choice.texts.extend(value)
        else:
            setattr(sampling, kind, value)


def structured_names(body: GenerationBody) -> dict[str, str]:
    """Return what the fields of gRPC for structured output are called in this body."""
    field = next((field for field, _, _ in _wanted(body)), "")
    return {f"sampling.{kind}": field for kind in KINDS if field}


def _wanted(body: GenerationBody) -> Iterator[tuple[str, str, Any]]:
    """Each demand: the field that has it, the field of `pb.Sampling`, and its value."""
    if body.response_format is not None:
        yield from of_response_format(body.response_format)
    if body.structured_outputs is not None:
        yield from _of_parts(body.structured_outputs, "structured_outputs.")
    guided = StructuredOutputs(
        json=body.guided_json, regex=body.guided_regex, choice=body.guided_choice, grammar=body.guided_grammar
    )
    yield from _of_parts(guided, "guided_")


def of_response_format(asked: ResponseFormat) -> Iterator[tuple[str, str, Any]]:
    """Yield what OpenAI's form asks for: nothing, any JSON object, or JSON of a schema."""
    if asked.type not in FORMATS:
        raise invalid("response_format.type", f"must be one of {', '.join(FORMATS)}, got {asked.type[:64]!r}")
    if asked.type == "json_object":
        yield "response_format", "json_object", True
    elif asked.type == "json_schema":
        if asked.json_schema is None or asked.json_schema.schema is None:
            raise invalid("response_format.json_schema.schema", "is required for the type json_schema")
        yield "response_format", "json_schema", schema_text(asked.json_schema.schema)


def _of_parts(asked: StructuredOutputs, prefix: str) -> Iterator[tuple[str, str, Any]]:
    if asked.json is not None:
        text = asked.json if isinstance(asked.json, str) else schema_text(asked.json)
        yield f"{prefix}json", "json_schema", text
    if asked.json_object:
        yield f"{prefix}json_object", "json_object", True
    for name in ("regex", "choice", "grammar"):
        if (value := getattr(asked, name)) is not None:
            yield f"{prefix}{name}", name, value


def schema_text(schema: Any) -> str:
    """Return a schema as the JSON that the gRPC API takes."""
    try:
        return msgspec.json.encode(schema).decode()
    except (msgspec.MsgspecError, OverflowError):  # numbers beyond 64 bits, which JSON may have
        return json.dumps(schema, ensure_ascii=False)

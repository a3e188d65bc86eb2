"""The bodies of HTTP requests, and the JSON that the live page sends."""

import asyncio
import json
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from experts.host.unique_keys import unique_keys
from router_service.front.auth.paths import is_openai
from router_service.front.errors import deadline_exceeded, invalid

# A client that sends its body slowly must not hold its place for ever.
BODY_SECONDS = 10.0
LARGE_BODY_SECONDS = 60.0
MAX_BODY_BYTES = 1 << 20

Body = TypeVar("Body")


class GenerateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to generate: one of `prompt` and `messages`; unset sampling fields take the checkpoint's defaults.

    `messages` and `tools` have the form of OpenAI's API, `template_kwargs` are variables of the chat template.
    """

    prompt: str = ""
    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    template_kwargs: dict[str, Any] = {}
    max_tokens: int = 128
    temperature: float | None = None
    seed: int | None = None
    fallback: str = ""


class DomainText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A domain, by an example text."""

    name: str
    text: str


class DomainsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The domains to compare."""

    domains: list[DomainText]


async def read_body(request: web.Request, kind: type[Body]) -> Body:
    """Return a request's body.

    Raises:
        RequestError: INVALID_ARGUMENT, not such JSON or a key twice; DEADLINE_EXCEEDED, it does not arrive in time.
        HTTPRequestEntityTooLarge: it is longer than a megabyte.
    """
    raw = await read_raw(request)
    try:
        body = msgspec.json.decode(raw, type=kind)
        # msgspec takes the last one of a key that stands twice. Yet it reads first: it bounds how deep this can go.
        json.loads(raw, object_pairs_hook=unique_keys)
    except (msgspec.DecodeError, ValueError) as error:
        raise invalid("body", f"{error}; send one JSON object as the page does") from error
    return body


def openai_bodies_up_to(limit: int) -> Middleware:
    """Return a middleware that lets bodies of the OpenAI API have `limit` bytes, as gRPC's messages may have."""

    @web.middleware
    async def widen(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(client_max_size=limit) if is_openai(request.path) else request)

    return widen


async def read_raw(request: web.Request) -> bytes:
    """Return a request's body as bytes; may be called again.

    Raises:
        RequestError: DEADLINE_EXCEEDED if it does not arrive.
        HTTPRequestEntityTooLarge: it is longer than its path allows, a megabyte for the page's.
    """
    seconds = LARGE_BODY_SECONDS if is_openai(request.path) else BODY_SECONDS
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except TimeoutError as error:
        raise deadline_exceeded() from error


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Require a number within its bounds.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if not low <= value <= high:
        raise invalid(field, f"must be {low:g} to {high:g}, got {value:g}")

"""Responses that are one JSON object."""

import msgspec
from aiohttp import web

from router_service.front.openai.calling import Call


def json_reply(body: bytes, call: Call | None = None) -> web.Response:
    """Return a response; with the id of the request that it answers, if there is one."""
    headers = call.headers if call is not None else None
    return web.Response(body=body, content_type="application/json", headers=headers)


def object_reply(reply: msgspec.Struct) -> web.Response:
    """Return an object as a response."""
    return json_reply(msgspec.json.encode(reply))

"""What an HTTP request is to the gRPC API: its metadata and its id."""

import time
from collections.abc import Mapping

from aiohttp import web

from router_service.front.http.auth import CALLER
from router_service.front.openai.answers.chunks import ReplyHead
from router_service.protocol.request_id import REQUEST_ID_KEY, new_request_id, request_id_metadata, shown_request_id

# The id of a request, from when it is known: an error that ends it has it, too.
REQUEST_ID = web.RequestKey("request_id", str)


class Call:
    """One HTTP request. Its id is its `x-request-id`, else the body's, else a random one."""

    def __init__(self, http: web.Request, prefix: str, model: str, given: str = "") -> None:
        """`prefix` is what ids of this kind of reply begin with, such as `chatcmpl`; `given` is the body's id."""
        self.http = http
        self.metadata: Mapping[str, str] = {name.lower(): _text(value) for name, value in http.headers.items()}
        self.request_id = self.metadata.get(REQUEST_ID_KEY) or new_request_id(given, {})
        http[REQUEST_ID] = self.request_id
        self.head = ReplyHead(f"{prefix}-{shown_request_id(self.request_id)}", int(time.time()), model)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry the id to the client, of errors too."""
        return id_headers(self.request_id)


def id_headers(request_id: str) -> dict[str, str]:
    """Return the headers that carry an id to its client."""
    return {name.title(): value for name, value in request_id_metadata(request_id)}


def id_of(http: web.Request) -> str:
    """Return the id of a request that has failed, "" for one of a stranger: nothing of that is sent back."""
    known = http.get(REQUEST_ID, "")
    return known or (
        new_request_id("", {REQUEST_ID_KEY: _text(http.headers.get(REQUEST_ID_KEY, ""))}) if CALLER in http else ""
    )


def _text(value: str) -> str:
    """A header's value without what is no text: its bytes may be no UTF-8."""
    return value.encode(errors="replace").decode()

"""What an HTTP request is to the gRPC API: its metadata and its id."""

import time
from collections.abc import Mapping

from aiohttp import web

from router_service.front.openai.answers.chunks import ReplyHead
from router_service.protocol.request_id import REQUEST_ID_KEY, new_request_id, request_id_metadata, shown_request_id


class Call:
    """One HTTP request. Its id is its `x-request-id`, else the body's, else a random one."""

    def __init__(self, http: web.Request, prefix: str, model: str, given: str = "") -> None:
        """`prefix` is what ids of this kind of reply begin with, such as `chatcmpl`; `given` is the body's id."""
        self.http = http
        self.metadata: Mapping[str, str] = {name.lower(): value for name, value in http.headers.items()}
        self.request_id = self.metadata.get(REQUEST_ID_KEY) or new_request_id(given, {})
        self.head = ReplyHead(f"{prefix}-{shown_request_id(self.request_id)}", int(time.time()), model)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry the id to the client, of errors too."""
        return {name.title(): value for name, value in request_id_metadata(self.request_id)}

"""A request's id on its way between client and Front: the metadata `x-request-id`, in both directions."""

import secrets
from collections.abc import Mapping
from urllib.parse import quote, unquote

import grpc.aio

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID_CHARACTERS = 256
# Metadata is printable ASCII without spaces at its ends. Ids are any text: the rest travels as %XX of its UTF-8 bytes.
PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def new_request_id(given: str, metadata: Mapping[str, str]) -> str:
    """The id of a request that has come: the one in it, or the metadata's, or drawn."""
    return given or metadata.get(REQUEST_ID_KEY, "") or secrets.token_hex(8)


def shown_request_id(request_id: str) -> str:
    """How an id is logged and sent back: one that is too long is cut."""
    return request_id[:MAX_REQUEST_ID_CHARACTERS]


def request_id_metadata(request_id: str) -> tuple[tuple[str, str], ...]:
    """The metadata that tells a client its request's id."""
    return ((REQUEST_ID_KEY, quote(shown_request_id(request_id), safe=PLAIN, errors="replace")),)


def request_id_of(error: grpc.aio.AioRpcError) -> str:
    """The id of the request that failed; empty where no Front has said it.

    It ends a call, and also begins an answer: a call whose deadline passes has only that.
    """
    for metadata in (error.trailing_metadata(), error.initial_metadata()):
        if isinstance(metadata, grpc.aio.Metadata) and (told := metadata.get(REQUEST_ID_KEY)):
            return unquote(str(told))
    return ""

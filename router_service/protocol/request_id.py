"""A request's id between client and Front: the metadata `x-request-id`, in both directions."""

import secrets
from collections.abc import Mapping
from urllib.parse import quote, unquote

import grpc.aio

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID_CHARACTERS = 256
# Metadata is printable ASCII without spaces at its ends. Ids are any text: the rest travels as %XX of its UTF-8 bytes.
PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def new_request_id(given: str, metadata: Mapping[str, str]) -> str:
    """Return the id of a new request: the one in it, else the metadata's, else a random one."""
    return given or metadata.get(REQUEST_ID_KEY, "") or secrets.token_hex(8)


def shown_request_id(request_id: str) -> str:
    """Return an id as it is logged and sent back: truncated if it is too long."""
    return request_id[:MAX_REQUEST_ID_CHARACTERS]


def request_id_metadata(request_id: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a request's id to its client."""
    return ((REQUEST_ID_KEY, quote(shown_request_id(request_id), safe=PLAIN, errors="replace")),)


def stated_by_front(error: grpc.aio.AioRpcError) -> bool:
    """Whether a Front has ended the call with this status; else the connection was lost, or there was none."""
    return _has_id(error.trailing_metadata())


def accepted_by_front(error: grpc.aio.AioRpcError) -> bool:
    """Whether a Front had accepted the request that failed; it says so before anything else."""
    return _has_id(error.initial_metadata())


def _has_id(metadata: object) -> bool:
    return isinstance(metadata, grpc.aio.Metadata) and REQUEST_ID_KEY in metadata


def request_id_of(error: grpc.aio.AioRpcError) -> str:
    """Return the id of the request that failed, "" if no Front sent one.

    It is in the trailing metadata, and of accepted requests also in the initial: a call whose deadline passed has only
    the latter.
    """
    for metadata in (error.trailing_metadata(), error.initial_metadata()):
        if isinstance(metadata, grpc.aio.Metadata) and (told := metadata.get(REQUEST_ID_KEY)):
            return unquote(str(told))
    return ""

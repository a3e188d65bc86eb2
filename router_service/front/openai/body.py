"""Reads the JSON bodies of the OpenAI API: checked by msgspec, `null` is unset, unknown fields are ignored."""

import logging
import re
from typing import TypeVar

import msgspec
from aiohttp import web

from router_service.front.errors import RequestError, invalid
from router_service.front.http.body import read_raw

logger = logging.getLogger(__name__)

# Names are text of clients: so many are logged by one process, each cut to so many characters.
MAX_NAMES = 256
SHOWN_CHARACTERS = 64
AT = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")

Body = TypeVar("Body", bound=msgspec.Struct)


class UnknownFields:
    """Names in the log what clients send and nobody here reads, each name once."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def note(self, raw: bytes, known: frozenset[str], path: str) -> None:
        """Log the unknown fields of a body, a JSON object."""
        for name in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).keys() - known:
            shown = name[:SHOWN_CHARACTERS]
            if shown not in self._named and len(self._named) < MAX_NAMES:
                self._named.add(shown)
                logger.warning("the field %r of %s is not known here and ignored", shown, path)


UNKNOWN = UnknownFields()


async def read_json(request: web.Request, kind: type[Body], unknown: UnknownFields = UNKNOWN) -> Body:
    """Return a request's body.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field; DEADLINE_EXCEEDED, it does not arrive in time.
        HTTPRequestEntityTooLarge: it is over the limit.
    """
    if request.content_type != "application/json":
        raise invalid("Content-Type", f"must be application/json, got {request.content_type[:SHOWN_CHARACTERS]!r}")
    raw = await read_raw(request)
    try:
        body = msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise invalid("body", f"must be one JSON object: {error}") from error
    unknown.note(raw, frozenset(kind.__struct_encode_fields__), request.path)
    return body


def _wrong(problem: str) -> RequestError:
    """Name the field of msgspec's message: "Expected `int`, got `str` - at `$.max_tokens`"."""
    where = AT.search(problem)
    path = where["path"] if where else ""
    text = problem[: where.start()] if where else problem
    if missing := MISSING.match(text):
        return invalid(f"{path}.{missing['field']}".lstrip("."), "is required")
    plain = text.replace("`", "").replace(" | null", "")
    return invalid(path or "body", plain[:1].lower() + plain[1:])

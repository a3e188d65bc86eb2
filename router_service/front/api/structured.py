"""What an answer must be, out of a request's sampling: texts are checked here, and grammars within bounded time."""

from collections.abc import Sequence

from router_service.front.errors import exhausted, invalid
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured
from router_service.structured.checks import BusyError, StructuredChecks
from router_service.structured.grammar import GrammarError

MAX_CHOICES = 1024
MAX_CHOICE_BYTES = 64 << 10
ANY_OBJECT = '{"type":"object"}'


def structured_of(sampling: pb.Sampling) -> Structured | None:
    """Return what the answer must be, None if anything.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field.
    """
    field = sampling.WhichOneof("structured")
    if field is None:
        return None
    if field == "json_object":
        if not sampling.json_object:
            raise invalid("sampling.json_object", "must be true, or left out")
        return Structured("json_schema", ANY_OBJECT)
    if field == "choice":
        return Structured("regex", _one_of(sampling.choice.texts))
    text = str(getattr(sampling, field))
    if not text:
        raise invalid(f"sampling.{field}", "must not be empty, or left out")
    return Structured(field, text)


def _one_of(texts: Sequence[str]) -> str:
    """A regular expression of exactly these texts."""
    if not 1 <= len(texts) <= MAX_CHOICES:
        raise invalid("sampling.choice", f"must have 1 to {MAX_CHOICES} texts, has {len(texts)}")
    if (size := sum(len(text.encode()) for text in texts)) > MAX_CHOICE_BYTES:
        raise invalid("sampling.choice", f"its texts may have {MAX_CHOICE_BYTES} bytes together, have {size}")
    for index, text in enumerate(texts):
        if not text:
            raise invalid(f"sampling.choice[{index}]", "must not be empty")
    return "|".join(map(_literal, dict.fromkeys(texts)))


def _literal(text: str) -> str:
    # By their numbers, so that it does not matter what means something in a regular expression.
    return "".join(one if one.isascii() and one.isalnum() else f"\\x{{{ord(one):X}}}" for one in text)


async def check_structured(structured: Structured | None, checks: StructuredChecks, field: str = "") -> None:
    """Check that answers can have this form; in bounded time, and other streams go on meanwhile.

    Args:
        field: names it in errors, its own name if not given.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field, or RESOURCE_EXHAUSTED where too many others are checked.
    """
    if structured is None:
        return
    named = field or f"sampling.{structured.kind}"
    try:
        await checks.check(structured)
    except GrammarError as error:
        raise invalid(named, str(error)) from error
    except BusyError as error:
        raise exhausted(f"{named}: {error}") from error

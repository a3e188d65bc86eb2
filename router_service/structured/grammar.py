"""What an answer must be as a grammar of llguidance, and the bounds of what may be asked for."""

import json
from typing import TYPE_CHECKING, Any

from experts.checkpoint.json_checks import is_valid_unicode
from router_service.protocol.messages import Structured

# Imported when the first grammar is compiled: a router serves without it.
if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KINDS = ("json_schema", "regex", "grammar")
MAX_BYTES = 256 << 10
# Deeper ones could overflow the stack of a parser, which nothing catches.
MAX_NESTING = 64
# JSON may have white space between its tokens; without a bound a model can go on with it for ever.
WHITE_SPACE = r"[\x20\x0A\x0D\x09]{1,32}"
# What a mask takes, all requests of its step wait for: tens of milliseconds at most. About 1,000 optional properties
# make a row of 4,000 items; a state takes 2 kB.
LIMITS: dict[str, Any] = {
    "verbose_errors": False,
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_items_in_row": 4_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
}
OPENING, CLOSING = "([{", ")]}"
SHOWN_CHARACTERS = 500
# What llguidance says where no text is left, and behind messages without its parser's state.
NOTHING, COMPLEX, CUT = "NoExtension", "Parser Error: ", "<non-verbose/>"


class GrammarError(ValueError):
    """What an answer must be cannot be compiled, or not within the limits; the message says why."""


def check_bounds(structured: Structured) -> None:
    """Check the kind, the size and the nesting.

    Raises:
        GrammarError: one is out of bounds.
    """
    if structured.kind not in KINDS:
        raise GrammarError(f"its kind {structured.kind!r} is unknown, must be one of {', '.join(KINDS)}")
    if not is_valid_unicode(structured.text):
        raise GrammarError("has a lone surrogate, which no text can have")
    size = len(structured.text.encode())
    if not 1 <= size <= MAX_BYTES:
        raise GrammarError(f"must have 1 to {MAX_BYTES} bytes, has {size}")
    if nesting(structured.text) > MAX_NESTING:
        raise GrammarError(f"is nested deeper than {MAX_NESTING} levels")


def nesting(text: str) -> int:
    """How deep the brackets of `text` are nested at most, whatever they mean there."""
    depth = deepest = 0
    for character in text:
        if character in OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif character in CLOSING:
            depth = max(0, depth - 1)
    return deepest


def compiled(structured: Structured, vocabulary: "LLTokenizer") -> "LLMatcher":
    """Compile. Holds the GIL for a short time only.

    Raises:
        GrammarError: it is out of bounds, malformed, or needs what llguidance does not support.
    """
    from llguidance import LLMatcher, LLParserLimits

    check_bounds(structured)
    limits = LLParserLimits(**LIMITS)
    matcher = LLMatcher(vocabulary, _grammar(structured), log_level=0, limits=limits)
    if matcher.is_error():
        raise GrammarError(reason(matcher))
    return matcher


def reason(matcher: "LLMatcher") -> str:
    """Why a matcher is in an error state, in one line."""
    text = " ".join(matcher.get_error().split())
    if text.startswith(NOTHING):
        return "no answer can satisfy it"
    if text.startswith(COMPLEX):
        return f"is too complex: {text.removeprefix(COMPLEX).removesuffix(CUT).strip()[:SHOWN_CHARACTERS]}"
    return text.removesuffix(CUT).strip()[:SHOWN_CHARACTERS]


def _grammar(structured: Structured) -> str:
    from llguidance import LLMatcher

    if structured.kind == "regex":
        return LLMatcher.grammar_from_regex(structured.text)
    if structured.kind == "grammar":
        return LLMatcher.grammar_from_lark(structured.text)
    schema = _schema(structured.text)
    return LLMatcher.grammar_from_json_schema(
        schema, defaults={"whitespace_pattern": WHITE_SPACE}, overrides={"lenient": False}
    )


def _schema(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise GrammarError(f"must be a JSON object, is {type(value).__name__}")
    return text

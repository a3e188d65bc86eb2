"""What the reader of JSON takes for JSON, beside the standard library."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.front.parsing.json_reader import MAX_DEPTH, json_value
from router_service.front.parsing.tape import Tape
from tests.unit.front.parsing.test_parsing_properties import DUMPED, parts

FRAGMENTS = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "\\",
        "\\u00e",
        "\\n",
        "\n",
        " ",
        "0",
        "-",
        "1.5e+3",
        "1.",
        "tru",
        "e",
        "null",
        '"a"',
        "é",
    ]
)
SPOILED = st.builds(
    lambda text, at, what: text[: at % (len(text) + 1)] + what + text[at % (len(text) + 1) :],
    DUMPED,
    st.integers(0, 60),
    FRAGMENTS,
)
TEXTS = DUMPED | SPOILED | st.lists(FRAGMENTS, max_size=8).map("".join)


def read(pieces: list[str]) -> tuple[bool, str, str]:
    """Return whether a value came, what of it was taken, and what was not."""
    tape, taken, ends = Tape(), [], []

    def run() -> Any:
        ends.append((yield from json_value(tape, taken.append)))

    reader = run()
    next(reader, None)
    for piece in pieces:
        tape.feed(piece)
        next(reader, None)
    tape.ended = True
    next(reader, None)
    text, position = tape.rest
    return ends[0], "".join(taken), text[position:]


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda constant: int(constant))
    except ValueError:
        return False
    return not text[:1].isspace() and not text[-1:].isspace()


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 60), max_size=8))
def test_it_takes_what_the_standard_library_does(text: str, positions: list[int]) -> None:
    whole, taken, rest = read(parts(text, positions))
    assert taken + rest == text
    assert (whole and not rest) == is_json(text)
    assert (whole, taken, rest) == read([text])
    assert not whole or is_json(taken)


@settings(max_examples=300, deadline=None)
@given(DUMPED, st.integers(0, 60))
def test_what_it_passes_on_is_the_beginning_of_json(text: str, at: int) -> None:
    cut = text[: at % (len(text) + 1)]
    _, taken, rest = read([cut])
    assert cut == taken + rest
    # At most a number, a constant or an escape waits.
    assert len(rest) <= 25
    assert not any(character in rest for character in '{}[]," \n')


def test_depth_is_bounded() -> None:
    assert read(["[" * MAX_DEPTH + "]" * MAX_DEPTH])[0]
    assert read(["[" * 100_000]) == (False, "[" * MAX_DEPTH, "[" * (100_000 - MAX_DEPTH))


def test_long_numbers_are_refused() -> None:
    assert not read(["1" * 100_000])[0]

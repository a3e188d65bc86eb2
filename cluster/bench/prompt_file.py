"""Prompts from a file of JSON lines, as other benchmarks take them."""

import json
from pathlib import Path
from random import Random
from typing import Any

from cluster.bench.workload import Lengths, Question

LENGTHS = ("output_tokens", "max_tokens")
FORMS = 'an object with one of "prompt" (text), "messages" (role and content) or "tokens" (ids)'


def read_prompts(path: Path, output: Lengths, seed: int) -> list[Question]:
    """Return a question for each line: {"prompt" | "messages" | "tokens": ..., "output_tokens": N}.

    A line without `output_tokens` (or `max_tokens`) takes a length of `output`. Empty lines are skipped.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not such an object, or there is none; the message names the line.
    """
    random = Random(f"{seed} lengths")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts: {path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise OSError(f"--prompts: cannot read {path}: {error.strerror}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"--prompts: {path} has no prompts")
    return [_question(f"{path}:{number}", line, output.draw(random)) for number, line in numbered]


def _question(place: str, line: str, length: int) -> Question:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise ValueError(f"--prompts: {place}: no JSON: {error}") from None
    given = {name: parsed[name] for name in FIELDS if name in parsed} if isinstance(parsed, dict) else {}
    if len(given) != 1:
        raise ValueError(f"--prompts: {place}: must be {FORMS}")
    ((name, value),) = given.items()
    if not value or not FIELDS[name](value):
        raise ValueError(f"--prompts: {place}: {name} is not valid: must be {FORMS}")
    return Question(_length(place, parsed, length), **{name: value})


def _length(place: str, parsed: dict[str, Any], length: int) -> int:
    asked: object = next((parsed[name] for name in LENGTHS if name in parsed), length)
    if not isinstance(asked, int) or not _is_id(asked) or asked == 0:
        raise ValueError(f"--prompts: {place}: output_tokens must be a number from 1 on, got {asked!r}")
    return asked


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and all(isinstance(v, str) for v in value.values())
    )


FIELDS = {
    "prompt": lambda value: isinstance(value, str),
    "messages": lambda value: isinstance(value, list) and all(map(_is_message, value)),
    "tokens": lambda value: isinstance(value, list) and all(map(_is_id, value)),
}

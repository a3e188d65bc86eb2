"""Lists of modules in a configuration: whole names, parts of names, `re:` patterns, and names with `*`."""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import cache

from experts.checkpoint.json_reader import JsonReader

# A pattern comes from an untrusted file. Every repetition without a limit multiplies the time that a name may take.
MOST_CHARACTERS = 1000
MOST_REPETITIONS = 6


def module_of(weight: str) -> str:
    """The module that a weight belongs to."""
    return weight.removesuffix(".weight")


def read_patterns(reader: JsonReader, *keys: str) -> Callable[[str], bool]:
    """Whether a module is in one of the lists `keys`.

    An entry is the module's whole name, its last parts or its first ones, up to a dot; after `re:` a pattern that
    the beginning of its name matches; or a name with `*`.

    Raises:
        CheckpointError: another thing than a list of strings, or a pattern that is none.
    """
    return any_of([_matcher(reader, key, entry) for key in keys for entry in reader.strings(key)])


def any_of(matchers: Sequence[Callable[[str], bool]]) -> Callable[[str], bool]:
    """Whether one of them says so; each name is asked about once."""
    return cache(lambda module: any(matches(module) for matches in matchers))


def _matcher(reader: JsonReader, key: str, entry: str) -> Callable[[str], bool]:
    if entry.startswith("re:"):
        return _compiled(reader, key, entry.removeprefix("re:"))
    if "*" in entry:
        return _compiled(reader, key, translate(entry))
    return lambda module: f".{module}.".startswith(f".{entry}.") or f".{module}".endswith(f".{entry}")


def _compiled(reader: JsonReader, key: str, pattern: str) -> Callable[[str], bool]:
    if len(pattern) > MOST_CHARACTERS or sum(pattern.count(sign) for sign in "*+{") > MOST_REPETITIONS:
        raise reader.error(key, pattern, f"a pattern has at most {MOST_REPETITIONS} of * + {{")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise reader.error(key, pattern, f"it must be a regular expression: {error}") from None
    return lambda module: compiled.match(module) is not None

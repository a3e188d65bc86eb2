"""Lists of modules in a configuration: whole names, parts of names, `re:` patterns, and names with `*`."""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import cache

from experts.checkpoint.json_reader import JsonReader

# A pattern comes from an untrusted file: each repetition multiplies the time that a name may take by its length, and a
# repeated group may double it with each character.
MOST_CHARACTERS = 1000
MOST_REPETITIONS = 4
REPEATED_GROUP = re.compile(r"\)[*+{]")


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
        _check_time(reader, key, entry)
        return _compiled(reader, key, entry, entry.removeprefix("re:"))
    if "*" in entry:
        return _compiled(reader, key, entry, translate(entry))
    return lambda module: f".{module}.".startswith(f".{entry}.") or f".{module}".endswith(f".{entry}")


def _check_time(reader: JsonReader, key: str, entry: str) -> None:
    repetitions = sum(entry.count(sign) for sign in "*+{")
    if len(entry) > MOST_CHARACTERS or repetitions > MOST_REPETITIONS or REPEATED_GROUP.search(entry):
        wanted = f"a pattern may have {MOST_CHARACTERS} characters, {MOST_REPETITIONS} of * + {{, and none behind a )"
        raise reader.error(key, entry, wanted)


def _compiled(reader: JsonReader, key: str, entry: str, pattern: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise reader.error(key, entry, f"it must be a regular expression: {error}") from None
    return lambda module: compiled.match(module) is not None

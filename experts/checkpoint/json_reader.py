"""A checkpoint's JSON files, read by type: what is wrong with a value is one line that names file, key and value.

They are untrusted data. Every number has bounds, so that none is multiplied, looped over or allocated for unchecked.
A null counts as unset, as in transformers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_checks import (
    MAX_FLOAT,
    MAX_SIZE,
    are_integers,
    describe_integer,
    describe_range,
    is_integer,
    is_valid_unicode,
)
from experts.checkpoint.json_file import read_json
from experts.host.shown import shown

Integer = TypeVar("Integer", int, int | None)
Number = TypeVar("Number", float, float | None)
Text = TypeVar("Text", str, str | None)


class JsonReader:
    """The object `values` of the file `where`; `path` leads to it in that file, as in `rope_scaling.`."""

    def __init__(self, values: Mapping[str, Any], where: str, path: str = "") -> None:
        self.values = values
        self.where = where
        self._path = path

    def name(self, key: str) -> str:
        """A key as errors call it: with the way to it."""
        return self._path + key

    def error(self, key: str, value: object, wanted: str) -> CheckpointError:
        """An error that names the file, the key and the value."""
        return CheckpointError(f"{self.where}: {self.name(key)} is {shown(value)}, {wanted}")

    def get(self, *keys: str, default: Any = None) -> Any:
        """Return the first of `keys` that is set, else `default`."""
        return self._first(keys, default)[1]

    def key_of(self, *keys: str) -> str:
        """Return the first of `keys` that is set, else the first."""
        return self._first(keys)[0]

    def integer(self, *keys: str, default: Integer, least: int = 0, most: int = MAX_SIZE) -> Integer:
        """Return the first of `keys` that is set, an integer within bounds, else `default`.

        Raises:
            CheckpointError: the value is something else; a boolean is no integer.
        """
        key, value = self._first(keys)
        if value is None:
            return default
        if not is_integer(value, least, most):
            raise self.error(key, value, describe_integer(least, most))
        return int(value)

    def positive(self, *keys: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """As `integer`, from 1 on.

        Raises:
            CheckpointError: it is something else, or none is set and there is no default.
        """
        value = self.integer(*keys, default=default, least=1, most=most)
        if value is None:
            raise CheckpointError(f"{self._names(keys)} is None, {describe_integer(1, most)}")
        return value

    def number(
        self, key: str, default: Number, least: float = -MAX_FLOAT, most: float = MAX_FLOAT, above: float | None = None
    ) -> Number:
        """Return a finite number within bounds; `above` is one that it may not be, in place of `least`.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key)
        if value is None:
            return default
        fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        if not fits or (above is not None and value <= above):
            raise self.error(key, value, f"it must be a number{describe_range(least, most, above)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key, default=default)
        if not isinstance(value, bool):
            raise self.error(key, value, "it must be true or false")
        return value

    def text(self, *keys: str, default: Text) -> Text:
        """Return the first of `keys` that is set, a string of valid Unicode, else `default`.

        Raises:
            CheckpointError: it is something else.
        """
        key, value = self._first(keys)
        if value is None:
            return default
        if not isinstance(value, str) or not is_valid_unicode(value):
            raise self.error(key, value, "it must be a string")
        return str(value)

    def object(self, key: str) -> "JsonReader":
        """Return the object under a key, an empty one where it is not set.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key, default={})
        if not isinstance(value, dict):
            raise self.error(key, value, "it must be an object")
        return JsonReader(value, self.where, f"{self.name(key)}.")

    def strings(self, key: str) -> list[str]:
        """Return a list of strings, an empty one where the key is not set.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key, default=[])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, value, "it must be a list of strings")
        return value

    def integers(self, key: str) -> list[int] | None:
        """Return a list of integers from 0 on, None where the key is not set.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key)
        if value is not None and not are_integers(value):
            raise self.error(key, value, "it must be a list of integers from 0 on")
        return None if value is None else list(value)

    def token_ids(self, key: str) -> tuple[int, ...] | None:
        """Return the ids of a key that holds one or a list of them, each once; None where it is not set.

        Raises:
            CheckpointError: it holds something else.
        """
        value = self.get(key)
        ids = value if value is None or isinstance(value, list) else [value]
        if ids is not None and not are_integers(ids):
            raise self.error(key, value, "it must be a token id or a list of them")
        return None if ids is None else tuple(dict.fromkeys(ids))

    def must_be(self, key: str, allowed: Sequence[str | int | float]) -> None:
        """Refuse a variant that is not implemented; the first of `allowed` is the default.

        Raises:
            CheckpointError: `key` is set to something that is not in `allowed`.
        """
        value = self.get(key, default=allowed[0])
        if isinstance(value, bool) or value not in allowed:
            raise self.error(key, value, f"supported: {', '.join(map(repr, allowed))}")

    def _first(self, keys: Sequence[str], default: Any = None) -> tuple[str, Any]:
        return next(((key, self.values[key]) for key in keys if self.values.get(key) is not None), (keys[0], default))

    def _names(self, keys: Sequence[str]) -> str:
        return f"{self.where}: {' or '.join(map(self.name, keys))}"


def open_json(file: Path, optional: bool = False) -> JsonReader:
    """Read a file; an `optional` one that is absent holds nothing.

    Raises:
        CheckpointError: see `read_json`.
    """
    return JsonReader({} if optional and not file.exists() else read_json(file), str(file))

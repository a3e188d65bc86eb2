"""Settings whose types carry their unit and bounds: what is checked, told in errors, documented and put into schemas
comes from there alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta


def setting(unit: str = "-", description: str = "", **bounds: float) -> Meta:
    """What a setting's type is annotated with: its unit, and `ge`, `gt`, `le`, `lt` as of `msgspec.Meta`.

    `description` is of bounds that numbers do not, or not alone.
    """
    make: Callable[..., Meta] = Meta
    return make(extra={"unit": unit, "description": description}, **bounds)


Port = Annotated[int, setting(ge=0, le=65535)]
Host = Annotated[str, setting(description="an address of this machine")]
Text = Annotated[str, setting(description="any")]
FilePath = Annotated[str, setting(description="a path")]
Seconds = Annotated[float, setting("seconds", gt=0)]
SecondsOrZero = Annotated[float, setting("seconds", ge=0)]
Threads = Annotated[int, setting("threads", ge=0)]
Times = Annotated[int, setting("times", ge=0)]


_KINDS = {str: "text", int: "an integer", float: "a number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a setting may be: its plain types, its unit, and either its choices or its numbers."""

    types: tuple[type, ...]
    unit: str = "-"
    description: str = ""
    choices: tuple[str | int, ...] = ()
    at_least: float | None = None
    over: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        """In words, as errors and the table of settings say it."""
        text = ", ".join(self._parts())
        return f"{text}, or null" if NoneType in self.types else text

    def _parts(self) -> Iterator[str]:
        if self.types == (bool,):
            yield "true, false"
        if self.choices:
            yield f"one of {', '.join(map(str, self.choices))}"
        if self.at_least is not None and self.at_most is not None:
            yield f"{self.at_least:g} to {self.at_most:g}"
        else:
            limits = (("at least", self.at_least), ("at most", self.at_most))
            yield from (f"{word} {limit:g}" for word, limit in limits if limit is not None)
        limits = (("over", self.over), ("below", self.below))
        yield from (f"{word} {limit:g}" for word, limit in limits if limit is not None)
        if self.description:
            yield self.description


def bounds_of(hint: Any) -> Bounds:
    """Read the annotation of a setting: a `Literal` of one type, `bool`, `Annotated[TYPE, setting(...)]`; or null."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return Bounds(types=(type(choices[0]),), choices=choices)
    if get_origin(hint) is Annotated:
        plain, meta = get_args(hint)
        extra = meta.extra
        return Bounds(
            types=(plain,),
            unit=extra["unit"],
            description=extra["description"],
            at_least=meta.ge,
            over=meta.gt,
            at_most=meta.le,
            below=meta.lt,
        )
    if NoneType in get_args(hint):
        one = bounds_of(next(kind for kind in get_args(hint) if kind is not NoneType))
        return replace(one, types=(*one.types, NoneType))
    return Bounds(types=(hint,))


def settings_of(kind: Any) -> dict[str, Bounds]:
    """The bounds of each field of a dataclass of settings."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: bounds_of(hints[field.name]) for field in fields(kind)}


def check_settings(section: str, settings: Any) -> None:
    """Check each field of a dataclass against its type and bounds; for its `__post_init__`.

    Raises:
        ValueError: one is outside; the message names the key, its value and its bounds.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise ValueError(
                f"{section}.{name} is {value!r}, it must be {_expected(bounds_of(hint), value)}"
            ) from error


def _expected(bounds: Bounds, value: object) -> str:
    """The bounds alone where the type is right."""
    kind = bounds.types[0]
    if type(value) is kind or (kind is float and type(value) is int) or bounds.choices or kind is bool:
        return str(bounds)
    return f"{_KINDS[kind]}, {bounds}"

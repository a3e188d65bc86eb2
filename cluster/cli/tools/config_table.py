"""Every key of the configuration in one table: units and bounds from the types, meanings from the docstrings."""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType
from typing import Any, get_type_hints

from cluster.config import ClusterConfig
from experts.host.bounds import Bounds, settings_of

INTRODUCTION = """\
# Configuration

`expertmesh serve --config FILE.yaml` reads one YAML file of sections and keys. Flags override it, a key that neither
names keeps its default, an unknown or duplicate key is an error. `expertmesh config check FILE.yaml` prints
what a file changes, or what is wrong with it.

Written by `expertmesh config table`; a test compares.
"""
SECRETS = """\
## Environment

Secrets, and what is a machine's own matter:

| variable | meaning |
| --- | --- |
"""
HEADER = ("key", "type", "unit", "default", "bounds", "meaning")
ENVIRONMENT = {
    "EXPERTMESH_API_KEY": "`front.api_key`, where file and flags do not set it: a token that callers must send",
    "EXPERTMESH_NATIVE_ISA": "instruction set of the native kernels, one that the CPU has: amx, avx512bf16, avx512, "
    "avx2 or neon; the best that computes rightly if unset",
    "EXPERTMESH_SECRET": "secret by which processes authenticate each other; drawn at each start if unset",
    "OTEL_EXPORTER_OTLP_HEADERS": "headers for the collector of `tracing.endpoint`, `NAME=VALUE,...`: its credentials",
}
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_ENTRY = re.compile(r"^    (\w+): (.*)")


class UndocumentedError(ValueError):
    """A key whose docstring lacks something; the message names it."""


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the table."""

    name: str
    default: Any
    bounds: Bounds
    meaning: str

    @property
    def type(self) -> str:
        """In words."""
        return " or ".join(TYPES[one] for one in self.bounds.types)

    def cells(self) -> tuple[str, ...]:
        """The row's cells in Markdown."""
        default = f"`{json.dumps(self.default)}`"
        return (
            f"`{self.name}`",
            self.type,
            self.bounds.unit,
            default,
            str(self.bounds),
            self.meaning.replace("|", "\\|"),
        )


def keys() -> list[Key]:
    """All keys, in the order of the sections.

    Raises:
        UndocumentedError: one lacks its meaning or its bounds.
    """
    sections = get_type_hints(ClusterConfig)
    return [key for section, kind in sections.items() for key in keys_of(section, kind)]


def keys_of(section: str, kind: Any) -> Iterator[Key]:
    """The keys of one section's dataclass; see `keys`."""
    entries, bounds = arguments(inspect.getdoc(kind) or ""), settings_of(kind)
    for field in fields(kind):
        yield _key(f"{section}.{field.name}", entries.get(field.name, ""), bounds[field.name], field)


def arguments(docstring: str) -> dict[str, str]:
    """The entries of a docstring's `Args:`, each on one line."""
    entries: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Args:\n")[2].splitlines():
        if match := _ENTRY.match(line):
            name, entries[match[1]] = match[1], match[2]
        elif name and line.startswith("        "):
            entries[name] += " " + line.strip()
        elif line.strip():
            break
    return entries


def render() -> str:
    """The page, Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *(key.cells() for key in keys())]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    secrets = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    return f"{INTRODUCTION}\n{table}\n\n{SECRETS}{secrets}\n"


def _key(name: str, meaning: str, bounds: Bounds, field: "Field[Any]") -> Key:
    if not meaning.strip():
        raise UndocumentedError(f"{name}: its docstring entry lacks meaning")
    if not str(bounds):
        raise UndocumentedError(f"{name}: its type lacks unit and bounds, Annotated[..., setting(UNIT, ...)]")
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return Key(name=name, default=default, bounds=bounds, meaning=meaning.strip().rstrip("."))

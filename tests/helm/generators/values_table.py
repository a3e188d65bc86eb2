"""The chart's README.md: its values as a table, made of the schema's descriptions and values.yaml's defaults.

`python -m tests.helm.generators.values_table` writes it (make helm-golden); a test compares.
"""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.chart import CHART

README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
ABSENT = object()


def rows(schema: dict[str, Any], defaults: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and description of each value; an object whose keys are not described one by one is one row."""
    for key, one in sorted(schema["properties"].items()):
        where = f"{path}.{key}" if path else key
        default = defaults.get(key, ABSENT) if isinstance(defaults, dict) else ABSENT
        inner = one.get("properties", {})
        if inner and all("description" in value for value in inner.values()):
            yield from rows(one, default, where)
        elif where == "workers":
            yield where, "front, compute", one["description"]
            yield from rows(one["additionalProperties"], ABSENT, "workers.NAME")
        else:
            yield where, "" if default is ABSENT else f"`{json.dumps(default)}`", one["description"]


def readme() -> str:
    """The README with its table made anew."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    table = ["| value | default | meaning |", "|---|---|---|"]
    table += [f"| `{key}` | {default} | {text} |" for key, default, text in rows(schema, defaults) if key != "global"]
    before, _, rest = README.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(readme())

"""JSON and YAML in which no key may stand twice; their libraries take the last one and say nothing."""

from collections import Counter
from typing import Any

import yaml

from experts.host.shown import shown_key


class DuplicateKeyError(ValueError):
    """A key stands twice in one mapping; the message names it, and both lines where they are known."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, as `json.loads(object_pairs_hook=)` asks for it.

    Raises:
        DuplicateKeyError: a key stands twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        count = Counter(name for name, _ in pairs)
        twice = next(name for name, number in count.items() if number > 1)
        raise DuplicateKeyError(f"{shown_key(twice)} stands there twice")
    return made


def load_yaml(text: str) -> Any:
    """Read a YAML document of plain data.

    Raises:
        DuplicateKeyError: a key stands twice in one mapping.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Look here, where `<<` has not been put in yet: what it brings may be overridden."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault((key.tag, key.value), key) is not key:
                lines = first[key.tag, key.value].start_mark.line + 1, key.start_mark.line + 1
                raise DuplicateKeyError(f"{key.value} stands twice, in lines {lines[0]} and {lines[1]}: keep one")
        return node

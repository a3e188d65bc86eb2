"""A placement as a file: JSON that people can read, compare and keep. E experts of a layer, L MoE layers.

    {"format": "expertmesh-placement", "version": 1, "experts": 4, "layers": [0, 1], "shards": 2,
     "reason": "promises 12%", "made_from": {"epoch": 3}, "holders": {"0": [0, 0, 1, [1, 0]], "1": [0, 1, 0, 1]}}

`holders` has a list for each layer: for each expert the shard that holds it, or a list of those that do, the one to be
asked first in front.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.balance.bounded_file import load
from experts.placement import LayerPlacement, Placement, Shards, placement_of_layers

FORMAT, VERSION = "expertmesh-placement", 1
# Far more than any model and cluster; what is read is kept in memory.
MOST_BYTES = 64 << 20
MOST_SHARDS = 1 << 16


class PlacementFileError(ValueError):
    """A placement that cannot be read or used; the message names the field, its value and what to do."""


@dataclass(frozen=True, slots=True)
class SavedPlacement:
    """What a file says: `placement` names each of `layers`; why it was made, and from what."""

    placement: Placement
    layers: tuple[int, ...]
    reason: str = ""
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def check(self, experts: int, layers: Sequence[int], shards: int) -> None:
        """Check that it is of this model and cluster.

        Raises:
            PlacementFileError: it is of other experts or layers, or names a shard that there is not.
        """
        if self.placement.experts != experts:
            raise _wrong(
                "experts", self.placement.experts, f"the model has {experts} in a layer: take a file of this model"
            )
        if self.layers != tuple(layers):
            raise _wrong(
                "layers", _brief(self.layers), f"the model's MoE layers are {_brief(layers)}: take a file of it"
            )
        if (last := max(self.placement.holding)) >= shards:
            raise _wrong("holders", f"shard {last}", f"there are {shards} shards, counted from 0: start more of them")


def write_placement(
    placement: Placement, layers: Sequence[int], reason: str = "", made_from: Mapping[str, Any] | None = None
) -> str:
    """The file's text; a line for each layer."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "experts": placement.experts,
        "layers": list(layers),
        "shards": placement.shards,
        "reason": reason,
        "made_from": dict(made_from or {}),
    }
    lines = ",\n".join(f'  "{layer}": {json.dumps(_brief_holders(placement.layer(layer)))}' for layer in layers)
    return f'{json.dumps(head)[:-1]}, "holders": {{\n{lines}\n}}}}\n'


def load_placement(file: Path) -> SavedPlacement:
    """Read a file.

    Raises:
        PlacementFileError: it cannot be read; see also `read_placement`.
    """
    return load(file, MOST_BYTES, read_placement, PlacementFileError)


def read_placement(text: str | bytes) -> SavedPlacement:
    """Read a placement file's text.

    Raises:
        PlacementFileError: it is no JSON, of another format or version, or a field is missing or wrong.
    """
    data = _parsed(text)
    if data.get("format") != FORMAT:
        raise _wrong("format", data.get("format"), f"it must be {FORMAT!r}: take what rebalance --save has written")
    if data.get("version") != VERSION or data["version"] is True:
        raise _wrong(
            "version", data.get("version"), f"this program reads version {VERSION}: save it again with this one"
        )
    experts = _number(data, "experts", 1, MOST_SHARDS)
    shards = _number(data, "shards", 1, MOST_SHARDS)
    layers = _layers(data.get("layers"))
    special = _holders(data.get("holders"), layers, experts, shards)
    made_from, reason = data.get("made_from", {}), data.get("reason", "")
    if not isinstance(made_from, dict):
        raise _wrong("made_from", made_from, "it must be an object: leave it out")
    if not isinstance(reason, str):
        raise _wrong("reason", reason, "it must be a text: leave it out")
    return SavedPlacement(placement_of_layers(shards, special), layers, reason, made_from)


def _parsed(text: str | bytes) -> dict[str, Any]:
    if len(text) > MOST_BYTES:
        raise PlacementFileError(f"it has over {MOST_BYTES >> 20} MiB: no placement is so large")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlacementFileError(f"it is no JSON: {error}: take what rebalance --save has written") from error
    if not isinstance(data, dict):
        raise PlacementFileError("it must be a JSON object: take what rebalance --save has written")
    return data


def _number(data: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = data.get(name)
    if type(value) is not int or not least <= value <= most:
        raise _wrong(name, value, f"it must be an integer from {least} to {most}")
    return value


def _layers(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or not value
        or not all(type(one) is int and 0 <= one < MOST_SHARDS for one in value)
    ):
        raise _wrong("layers", value, "it must list the numbers of the model's MoE layers")
    if sorted(set(value)) != value:
        raise _wrong("layers", value, "they must ascend, each once")
    return tuple(value)


def _holders(value: Any, layers: tuple[int, ...], experts: int, shards: int) -> dict[int, LayerPlacement]:
    if not isinstance(value, dict) or set(value) != {str(layer) for layer in layers}:
        named = list(value) if isinstance(value, dict) else value
        raise _wrong("holders", _brief(named), "it must be an object with a list for each of layers, and no other")
    return {layer: _layer(value[str(layer)], f"holders.{layer}", experts, shards) for layer in layers}


def _layer(value: Any, where: str, experts: int, shards: int) -> LayerPlacement:
    if not isinstance(value, list) or len(value) != experts:
        there = len(value) if isinstance(value, list) else value
        raise _wrong(where, there, f"it must list who holds each of the {experts} experts")
    return LayerPlacement(tuple(_shards(one, f"{where}[{expert}]", shards) for expert, one in enumerate(value)))


def _shards(value: Any, where: str, shards: int) -> Shards:
    listed = value if isinstance(value, list) else [value]
    if (
        not listed
        or not all(type(one) is int and 0 <= one < shards for one in listed)
        or len(set(listed)) < len(listed)
    ):
        raise _wrong(where, value, f"it must be a shard, or several different ones, from 0 to {shards - 1}")
    return tuple(listed)


def _brief_holders(layer: LayerPlacement) -> list[int | list[int]]:
    return [shards[0] if len(shards) == 1 else list(shards) for shards in layer.holders]


def _brief(value: Any) -> str:
    shown = str(list(value) if isinstance(value, tuple | range) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _wrong(name: str, value: Any, what: str) -> PlacementFileError:
    return PlacementFileError(f"{name} is {_brief(value)}, {what}")

"""Values of a configuration's key at its bounds and beyond them."""

import math
from types import NoneType
from typing import Any

from cluster.cli.tools.config_table import Key

WRONG_TYPES = {str: "much", int: 3, float: 2.5, bool: True, NoneType: None, list: [1], dict: {}}


def outside(key: Key) -> list[Any]:
    """Values just beyond the bounds, and of other types."""
    step, bounds = 0.001 if key.type == "number" else 1, key.bounds
    values: list[Any] = [limit for limit in (bounds.over, bounds.below) if limit is not None]
    values += [] if bounds.at_least is None else [bounds.at_least - step]
    values += [] if bounds.at_most is None else [bounds.at_most + step]
    if bounds.choices:
        values.append("something else")
    if values and key.type == "number":
        values = [*map(float, values), math.nan]
    wrong = [value for kind, value in WRONG_TYPES.items() if kind not in bounds.types]
    return values + [value for value in wrong if not (type(value) is int and float in bounds.types)]


def inside(key: Key) -> list[Any]:
    """Values at the bounds."""
    step, bounds = 0.001 if key.type == "number" else 1, key.bounds
    values: list[Any] = [limit for limit in (bounds.at_least, bounds.at_most) if limit is not None]
    values += [] if bounds.over is None else [bounds.over + step]
    return [*values, *bounds.choices]

"""Rewrites durations, so that what takes an hour in production takes minutes in a test."""

import re
from pathlib import Path
from typing import Any

import yaml

FACTOR = 15
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+)(ms|[smhd])")
_DURATION = r"(?:\d+(?:ms|[smhd]))+"
# In an expression: strings and names are passed over, a range, a subquery's two parts and an offset are rewritten.
_IN_EXPRESSION = re.compile(rf"""("[^"]*"|'[^']*')|((?:\[|:|offset\s+))({_DURATION})(?=[\]:\s)]|$)""")


def milliseconds(duration: str) -> int:
    """The length of a duration as Prometheus writes it, such as 1h30m."""
    assert re.fullmatch(_DURATION, duration), duration
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def scaled(duration: str, factor: int = FACTOR) -> str:
    """A duration divided by `factor`, in the largest unit in which it is whole."""
    length = milliseconds(duration) // factor
    unit = next(unit for unit in reversed(_UNITS) if length % _UNITS[unit] == 0 and length >= _UNITS[unit])
    return f"{length // _UNITS[unit]}{unit}"


def scaled_expression(expr: str, factor: int = FACTOR) -> str:
    """An expression whose ranges and offsets are divided; names, which tell of the production's windows, stay."""

    def shorter(match: re.Match[str]) -> str:
        return match[0] if match[1] else f"{match[2]}{scaled(match[3], factor)}"

    return _IN_EXPRESSION.sub(shorter, expr)


def scaled_rules(path: Path, factor: int = FACTOR) -> dict[str, Any]:
    """A rule file whose expressions, waits and annotations' queries are divided."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    for rule in (rule for group in data["groups"] for rule in group["rules"]):
        rule["expr"] = scaled_expression(rule["expr"], factor)
        if "for" in rule:
            rule["for"] = scaled(rule["for"], factor)
    return data

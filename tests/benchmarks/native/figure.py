"""A measured figure beside its floor and its target, the table of all, and what changed since another run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cluster.table import table


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Args:
        row: the row's name, by which it is selected.
        what: what was measured, with the shape; row and this together name the figure in all runs.
        unit: of the rounds: tokens/s, GB/s, ms, ratio and so on.
        rounds: the value of each round; the figure is their median. Empty if it could not be measured.
        floor: the same at best on this machine, in the same unit.
        target: what it should be at most, or with `at_least` at least; None if it is only reported.
        note: what else the rounds saw.
    """

    row: str
    what: str
    unit: str
    rounds: tuple[float, ...]
    floor: float | None = None
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def value(self) -> float | None:
        """The median of the rounds."""
        return median(self.rounds) if self.rounds else None

    @property
    def spread(self) -> float:
        """From the lowest round to the highest."""
        return max(self.rounds) - min(self.rounds) if self.rounds else 0.0

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one or if nothing was measured."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file has."""
        return asdict(self) | {"value": self.value, "met": self.met, "spread": self.spread}


def ratio(row: str, what: str, over: Sequence[float], under: Sequence[float], target: float, **more: Any) -> Figure:
    """A ratio of two sides, round by round, as the machine drifts."""
    return Figure(row, what, "ratio", tuple(a / b for a, b in zip(over, under, strict=True)), target=target, **more)


def absent(row: str, what: str, why: str, target: float | None = None, at_least: bool = False) -> Figure:
    """What stands for a figure that this tree or this machine cannot measure."""
    return Figure(row, what, "", (), target=target, at_least=at_least, note=why)


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render(figures: Sequence[Figure]) -> str:
    """The table, and the notes below it."""
    header = ["row", "", "median", "rounds", "", "floor", "target", ""]
    rows = [[f.row, f.what, *_measured(f), f.unit, _floor(f), _target(f), _verdict(f)] for f in figures]
    notes = [f"{f.row}: {f.what}: {f.note}" for f in figures if f.note]
    return "\n".join([table(header, rows, left=2), *notes])


def compare(figures: Sequence[Figure], before: Mapping[tuple[str, str], Figure]) -> list[str]:
    """A line for each figure whose median moved by more than the larger spread of both runs, and for what came or went.

    One round says nothing of the noise, so figures of one are left out.
    """
    known = [(figure, before[key]) for figure in figures if (key := (figure.row, figure.what)) in before]
    lines = [line for pair in known if (line := _change(*pair))]
    now, rows = {(figure.row, figure.what) for figure in figures}, {figure.row for figure in figures}
    gone = [f"{row}: {what}: no longer measured" for row, what in before if row in rows and (row, what) not in now]
    new = len(figures) - len(known)
    return [*lines, *gone, *([f"{new} figures that the other run does not have"] if new else [])]


def read(path: Path) -> dict[tuple[str, str], Figure]:
    """The figures of a file that another run wrote.

    Raises:
        ValueError: it is no such file.
    """
    try:
        found = json.loads(path.read_text())["figures"]
        names = Figure.__dataclass_fields__
        figures = [Figure(**{key: value for key, value in one.items() if key in names}) for one in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a result of this benchmark: {type(error).__name__}: {error}") from error
    return {(figure.row, figure.what): figure for figure in figures}


def _change(now: Figure, then: Figure) -> str:
    if now.value is None or then.value is None:
        return "" if now.value == then.value else f"{now.row}: {now.what}: measured in one of the runs only"
    if min(len(now.rounds), len(then.rounds)) < 2 or abs(now.value - then.value) <= max(now.spread, then.spread):
        return ""
    change = f"{now.value / then.value - 1:+.1%}" if then.value else ""
    return f"{now.row}: {now.what}: {number(then.value)} -> {number(now.value)} {now.unit} {change}".rstrip()


def _measured(figure: Figure) -> tuple[str, str]:
    if figure.value is None:
        return "-", ""
    spread = "" if len(figure.rounds) == 1 else f"{number(min(figure.rounds))} to {number(max(figure.rounds))}"
    return number(figure.value), spread


def _floor(figure: Figure) -> str:
    return "" if figure.floor is None else number(figure.floor)


def _target(figure: Figure) -> str:
    return "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {number(figure.target)}"


def _verdict(figure: Figure) -> str:
    if figure.value is None:
        return "not measured"
    return {None: "", True: "met", False: "MISSED"}[figure.met]

"""A measured ratio beside its target, and the table of all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from cluster.table import table


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Args:
        row: the row's name, by which it is selected.
        what: what is divided by what.
        rounds: the value of each round; the figure is their median. Empty if this tree cannot be measured.
        target: what the figure should be at most, or with `at_least` at least.
        note: what else the rounds saw.
    """

    row: str
    what: str
    rounds: tuple[float, ...]
    target: float
    at_least: bool = False
    note: str = ""

    @property
    def value(self) -> float | None:
        """The median of the rounds."""
        return median(self.rounds) if self.rounds else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file has."""
        return asdict(self) | {"value": self.value, "met": self.met}


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, ...]:
    """Round by round, as the machine drifts: each measurement over its neighbour's."""
    return tuple(a / b for a, b in zip(over, under, strict=True))


def tail(seconds: Sequence[float]) -> float:
    """The 99th percentile over the median."""
    return quantiles(seconds, n=100, method="inclusive")[98] / median(seconds)


def number(value: float) -> str:
    """Counts as they are, ratios with two digits, shares below a tenth with three."""
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"


def render(figures: Sequence[Figure]) -> str:
    """The table, and the notes below it."""
    rows = [[f.row, f.what, *_measured(f), _target(f), _verdict(f)] for f in figures]
    notes = [f"{f.row}: {f.note}" for f in figures if f.note]
    return "\n".join([table(["row", "", "measured", "rounds", "target", ""], rows, left=2), *notes])


def failed(name: str, error: Exception) -> Figure:
    """What stands for a row that raised: the others are measured all the same."""
    return Figure(name, "failed", (), 0.0, note=f"{type(error).__name__}: {error}")


def result(machine: Mapping[str, Any], command: str, figures: Sequence[Figure]) -> dict[str, Any]:
    """What the JSON file has."""
    return {"machine": machine, "command": command, "figures": [figure.as_dict() for figure in figures]}


def _measured(figure: Figure) -> tuple[str, str]:
    if figure.value is None:
        return "-", ""
    spread = "" if len(figure.rounds) == 1 else f"{number(min(figure.rounds))} to {number(max(figure.rounds))}"
    return number(figure.value), spread


def _target(figure: Figure) -> str:
    return f"{'>=' if figure.at_least else '<='} {number(figure.target)}"


def _verdict(figure: Figure) -> str:
    return {None: "not measured", True: "met", False: "MISSED"}[figure.met]

"""What a dashboard says, as plain data: no word of Grafana's own format. `render.py` turns it into that."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """States of a cluster in which the tests ask each panel's queries."""

    HEALTHY = "healthy"
    SKEWED = "skewed"
    DEAD = "one shard dead"


ALL = frozenset(State)
# No cluster of the live tests moves its experts by itself.
MOVED: frozenset[State] = frozenset()
# Nothing ends while a shard is away, so what is measured of requests and calls stands still.
ANSWERING = frozenset({State.HEALTHY, State.SKEWED})


class Kind(Enum):
    """How a panel draws."""

    LINES = "lines"
    STACKED = "stacked"
    STAT = "stat"
    STATES = "states"
    HEATMAP = "heatmap"
    TABLE = "table"
    MATRIX = "matrix"


# Drawn from the values of this moment.
OF_NOW = frozenset({Kind.STAT, Kind.TABLE, Kind.MATRIX})


@dataclass(frozen=True)
class Query:
    """A PromQL expression, in which variables may stand, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        title: shown above it; may name a variable.
        about: what it shows, with the formula where there are rivals.
        queries: what it draws.
        kind: how.
        unit: Grafana's name of the unit.
        width: of the 24 columns.
        bounds: values from which it turns yellow and red; falling ones turn it red below the last.
        runbook: the page to open when it looks bad.
        repeat: the variable for each of whose values there is one such panel.
        states: those in which every query must have data; none where only a move of experts brings it.
        rows: in a matrix, the label of its rows; `columns` that of its columns.
    """

    title: str
    about: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    unit: str = "short"
    width: int = 8
    bounds: tuple[float, float] | None = None
    runbook: str = ""
    repeat: str = ""
    states: frozenset[State] = ALL
    rows: str = ""
    columns: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard; `uid` is also its file's name."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)

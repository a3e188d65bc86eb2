"""Routing of steps as an engine traces it, drawn at random."""

import numpy as np
from hypothesis import strategies as st

from experts.routing import Routing
from router_service.engine.routed_rows import RoutedRows, StepRouting

EXPERTS, CHOSEN, RANKED, SHARDS = 40, 3, 5, 7


def step_of(rows: int, layers: int, scored: bool = False, seed: int = 0) -> StepRouting:
    """All rows of a step are wanted, in another order than that of the step."""
    draw = np.random.default_rng(seed)

    def ids(width: int) -> np.ndarray:  # type: ignore[type-arg]
        return draw.integers(0, EXPERTS, (rows, width))

    def values(width: int) -> np.ndarray:  # type: ignore[type-arg]
        return draw.random((rows, width), dtype=np.float32)

    return StepRouting(
        layers=tuple(range(1, 2 * layers, 2)),
        routings=tuple(Routing(ids(CHOSEN), values(CHOSEN)) for _ in range(layers)),
        shards=tuple(ids(CHOSEN) % SHARDS for _ in range(layers)),
        rows_R=draw.permutation(rows),
        scores=tuple((values(RANKED), ids(RANKED)) for _ in range(layers)) if scored else (),
    )


@st.composite
def routed_rows(draw: st.DrawFn, first: int = 0) -> RoutedRows:
    """Positions from `first` on, in the midst of a step's rows."""
    before, count, behind = draw(st.integers(0, 3)), draw(st.integers(1, 30)), draw(st.integers(0, 3))
    scored = draw(st.booleans())
    step = step_of(before + count + behind, draw(st.integers(1, 4)), scored, draw(st.integers(0, 99)))
    return RoutedRows(step, first, before, count, before if scored else None)

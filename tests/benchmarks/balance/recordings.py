"""What was recorded of the bundled model's routing, as the planner reads it; `record` makes the files."""

from pathlib import Path

import numpy as np

from experts.demand import Demand, RoutedBatch

DIRECTORY = Path(__file__).parent / "recordings"
DOMAINS = ("code", "prose", "mathematics", "french")
EXPERTS = 16


def recorded(domain: str, part: slice = slice(None)) -> Demand:
    """The demand of a domain's text; `part` takes some of its steps."""
    with np.load(DIRECTORY / f"{domain}.npz") as file:
        ids_RLK, rows_N = file["ids_RLK"], file["rows_N"]
    steps = np.split(ids_RLK.astype(np.int16), np.cumsum(rows_N)[:-1])[part]
    return demand_of([step.transpose(1, 0, 2) for step in steps], EXPERTS)


def demand_of(ids: list[np.ndarray], experts: int, seconds: float = 60.0) -> Demand:
    """The demand of steps of routing, each [L, T, K]."""
    layers = len(ids[0])
    tokens_LE = np.zeros((layers, experts), np.int64)
    for ids_LTK in ids:
        for layer in range(layers):
            tokens_LE[layer] += np.bincount(ids_LTK[layer].ravel(), minlength=experts)
    return Demand(tuple(range(layers)), tokens_LE, seconds, tuple(map(RoutedBatch, ids)))

"""The pieces of the benchmarks of moves and of the balancer that need no cluster."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import bench_balance, bench_migration
from tests.benchmarks.balance.accelerators.sitecustomize import VARIABLE
from tests.benchmarks.balance.clusters import ACCELERATORS
from tests.benchmarks.balance.killed import Killed
from tests.benchmarks.balance.live import Costs
from tests.benchmarks.balance.placements import Placements, zipf
from tests.benchmarks.balance.skewed import EXPERTS, LAYERS, VOCABULARY, write_skewed
from tests.benchmarks.balance.turns import Turns
from tests.benchmarks.migration.rows import ROWS, Figures
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

ROOT = Path(__file__).parents[3]
COSTS = Costs(100.0, 50.0, 70.0)
FIGURES = Figures(
    "moves",
    {"done": 2},
    9,
    1.5,
    40,
    ["UNAVAILABLE after 3 tokens: gone"],
    [],
    0.3,
    0.4,
    0.01,
    0.01,
    0.02,
    0.03,
    90,
    80,
    [],
)
# Compares what a shard's computation takes by the clock that the sleep is given: no wall clock decides.
CHILD = """
import time
slept = []
time.sleep = slept.append
time.monotonic = lambda: 1.0
import experts.shard.shard as shard
import numpy as np
class Bare(shard.ExpertShard):
    def __init__(self): pass
    def check(self, call): return None
    def compute_by(self, layer, call): return "computed"
class Call:
    experts_A = np.array([3, 3, 5])
print(Bare().compute(Call()), round(1e6 * slept[0]) if slept else None)
"""


def test_experts_of_the_skewed_checkpoint_follow_zipfs_law_in_each_layer_others(tmp_path: Path) -> None:
    engine = SteppedEngine(write_skewed(tmp_path), prefix_caching=False, overlap="off", threads=1, max_sequences=16)
    draw = np.random.default_rng(0)
    for seed in range(16):
        engine.submit(draw.integers(VOCABULARY, size=64).tolist(), 1, temperature=0.7, seed=seed)
    while not engine.engine.idle():
        engine.step()
    routings = [[one.expert_ids_TK for _, one in record.trace.routings] for record in engine.records]
    loads = [np.bincount(np.concatenate(layer).ravel(), minlength=EXPERTS) for layer in zip(*routings, strict=True)]
    assert len(loads) == LAYERS
    assert [0.8 < zipf(tokens_E) < 1.25 for tokens_E in loads] == [True] * LAYERS
    assert len({int(tokens_E.argmax()) for tokens_E in loads}) == LAYERS


def test_zipfs_exponent_is_fitted_to_the_busier_half() -> None:
    assert zipf(1e6 * np.arange(1.0, 65.0) ** -1.5) == pytest.approx(1.5)


@pytest.mark.parametrize(("given", "printed"), [("100 10 1", "computed 123"), ("", "computed None")])
def test_a_simulated_accelerator_sleeps_for_what_a_call_touches(given: str, printed: str) -> None:
    paths = os.pathsep.join(map(str, (ACCELERATORS, ROOT)))
    surroundings = os.environ | {"PYTHONPATH": paths, VARIABLE: given, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", CHILD], env=surroundings, capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.strip() == printed


def test_the_table_of_moves_names_what_was_lost() -> None:
    text = bench_migration.render([FIGURES, replace(FIGURES, lost=[])])
    assert text.count("UNAVAILABLE after 3 tokens") == 1
    assert "2 done" in text
    assert "(1.50)" in text


def test_seconds_set_the_number_of_moves_only_where_no_shard_is_killed() -> None:
    rows = bench_migration.shortened(ROWS, None, 20.0)
    assert [row.moves for row in rows] == [4, 4, 20]
    assert {row.moves for row in bench_migration.shortened(ROWS, 3, None)} == {3}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            Placements(
                {name: [COSTS] for name in ("static", "EPLB", "ours")},
                {"static": 200.0, "EPLB": 150.0, "ours": 100.0},
                [1.0],
                [7],
                [0.5],
                [0.4],
                [],
            ),
            "promised 50.0%, gave 40.0%",
        ),
        (Turns(5, 3, 1, 1 << 20, [0.2], [None], COSTS, COSTS, []), "3 plans in 5 changes of heat, at most 1 in a turn"),
        (Killed(3.0, 70.0, 12, 4.0, COSTS, COSTS, ["UNAVAILABLE: gone"]), "fires after 70 s"),
    ],
)
def test_each_row_of_the_balancer_has_a_table(found: Placements | Turns | Killed, expected: str) -> None:
    assert expected in bench_balance.render(found)


def test_rows_that_there_are_not_are_refused() -> None:
    assert bench_balance.chosen("turns,killed") == ["turns", "killed"]
    with pytest.raises(SystemExit, match="there is no 'moves'"):
        bench_balance.chosen("turns,moves")

"""What panels show of a cluster of two routers and two Fronts, by promtool: each router once, Fronts added up."""

from pathlib import Path
from typing import Any

import yaml

from tests.dashboards import promtool
from tests.dashboards.panels import each_query, substituted
from tests.dashboards.rules import RULE_FILES
from tests.dashboards.two_by_two import series

NOW = "20m"
# Query by query, None passes one over. A sample is named by its labels beside namespace and model; in braces, by all.
Expected = list[dict[str, float] | None]
R, S = 'router="r"', 'router="s"'
CALL = {'shard="0", phase="compute"': 0.0075, 'shard="0", phase="dispatch"': 0.015, 'shard="0", phase="combine"': 0.005}
SERVING: dict[str, Expected] = {
    "Shards up": [{"{}": 2}],
    "Routers ready": [{"{}": 1}],
    "Tokens/s generated": [{"{}": 30}],
    "All-to-all overhead": [{"{}": 0.5}],
    "Busiest shard / mean": [{"{}": 1.333333}],
    "KV cache in use": [{"{}": 0.5}],
    "Errors": [{"{}": 0.1}],
    "Requests/s by outcome": [{'finished_reason="stop"': 9}, {'code="UNAVAILABLE"': 1, 'code="CANCELLED"': 5}],
    "Tokens/s": [{"": 150}, {"": 30}],
    "Queue": [{R: 3, S: 5}, {R: 1, S: 2}],
    "Time to first token, all requests": [{'{le="0.1"}': 6, '{le="0.2"}': 9, '{le="+Inf"}': 9}],
    "Where a request's time goes": [{"": 0.666667}, None, None],
    "KV cache by router": [{R: 0.25, S: 0.5}],
    "Preemptions/s": [{R: 0.5, S: 2}],
    "Prefix cache hit rate": [{R: 0.75, S: 0.25}],
    "Tokens of a step, p50 and p95": [{R: 4, S: 12}, {R: 7.6, S: 15.6}],
    "Step time, p95": [{f'{R}, kind="decode"': 0.95, f'{S}, kind="decode"': 1.95}],
    "Error ratio by window": [{"": 0.1}] * 5,
}
ALL_TO_ALL: dict[str, Expected] = {
    "Overhead ratio": [{R: 0.25, S: 0.5}] * 2,
    "Where step time goes": [{'stage="wait"': 0.375}],
    "Exposed wait and stragglers": [{R: 0.5, S: 0.25}, {R: 0.25, S: 0.125}],
    "Shard $shard: mean call": [CALL],
    "Phases over five minutes": [CALL],
    "Phases, p99": [{'shard="0", phase="compute"': 0.198}],
    "In transit: dispatch and combine together": [{'shard="0"': 0.02}],
    "Clock error": [{f'{R}, shard="0"': 0.001, f'{S}, shard="0"': 0.002}],
    "Bytes/s": [{'shard="0", direction="dispatch"': 300}],
    "Calls/s and rows/s": [{'shard="0"': 40}, {'shard="0"': 40}],
    "Experts per row": [{'shard="0"': 2}],
}
BALANCE: dict[str, Expected] = {
    "Balancedness": [{R: 0.5, S: 1}, {"": 0.75}],
    "Max / mean of a window's tokens": [{"": 1.5}] * 3,
    "Max / mean of a single call": [{"": 1}, {"": 1.9}, {"": 1.5}],
    "Pairs/s by shard": [{'shard="0"': 30, 'shard="1"': 10}],
    "Max / mean of single calls, all of them": [{'{le="1"}': 10, '{le="2"}': 20, '{le="+Inf"}': 20}],
    "Max / mean over experts": [{f'{R}, layer="0"': 1.5, f'{S}, layer="0"': 2.5}],
    "MaxVio": [{R: 0.5, S: 0.25}],
    "Entropy of the load": [{f'{R}, layer="0"': 0.5, f'{S}, layer="0"': 0.75}],
    # Of several routers the one with the most, which is r with 1 + 3.
    "Dead experts": [
        {f'{R}, layer="0"': 1, f'{R}, layer="1"': 3, f'{S}, layer="0"': 2, f'{S}, layer="1"': 0},
        {"": 4},
    ],
    "The ten busiest experts": [{'layer="0", expert="0"': 3, 'layer="0", expert="1"': 9}],
    "Imbalance, and moves": [{R: 2, S: 1}, {"": 1}],
    "Gain, promised and given": [{"": 0.25}, {"": 0.2}],
    # Router s is behind.
    "Epoch, decided and in use": [{"": 7}, {R: 7, S: 6}],
    "Copies by shard": [{'shard="0"': 20, 'shard="1"': 12}],
    "Copies moved": [{"": 6}],
    "Shards, wanted and up": [{"": 2}, {"": 2}],
    "Since the balancer's last look": [{"": 1000}, {"": 50}],
    "Looks by result": [{'result="kept"': 90, 'result="moved"': 9}],
    "Layer x expert": [{'layer="0", expert="0"': 0.5, 'layer="0", expert="1"': 1.5}],
}
SHARDS: dict[str, Expected] = {
    "Shards, as each router sees them": [
        {
            f'{router}, shard="{shard}", replica="{replica}"': up
            for router, ups in ((R, (1, 1)), (S, (1, 0)))
            for shard, replica, up in zip("01", "xy", ups, strict=True)
        }
    ],
    "Routers and Fronts": [{R: 1, S: 0}, None],
    # Both routers saw some of the same lives: the longer memory counts.
    "Restarts": [{'shard="0"': 18}],
    "Reconnects": [{'shard="0"': 27}],
    "Routers linked, of configured": [{'instance="a"': 2, 'instance="b"': 1}, {"": 2}],
    "Links by state": [{'state="live"': 3, 'state="suspect"': 1}],
    # Of several routers the one that reaches fewest.
    "Living copies": [{'shard="0"': 2, 'shard="1"': 1}, {"": 3}],
    "Placement epoch": [{R: 7, S: 6}],
    "Failovers/s by reason": [{'reason="eof"': 1.5, 'reason="suspect"': 2}],
    "Failover time": [{'{le="0.25"}': 2.5, '{le="+Inf"}': 3.5}],
    "Calls/s, and what is hedged": [{"": 150}, {"": 3}, {"": 1.5}, {"": 0.75}, {"": 2.5}],
    "Suspicions/s": [{"": 0.75}, {"": 0.5}],
    "Tokens/s that lost an expert": [{'policy="drop"': 4, 'policy="wait"': 2}],
    "Busy: compute time per second": [{'shard="0"': 0.25}],
    "Refused connections": [{'shard="0", reason="secret"': 9, 'shard="router", reason="secret"': 27}],
    "Time to load the weights": [{'shard="router"': 4}],
    "Loading speed": [{'shard="router"': 50}],
}
MEMORY: dict[str, Expected] = {
    "Parameters": [{'kind="active"': 10, 'kind="total"': 40}],
    "Active / total": [{"": 0.25}],
    "Experts' share of the weights": [{"": 0.9}],
    "Weights by kind": [{'kind="expert"': 450, 'kind="dense"': 100}],
    "Weights by shard": [{'shard="0"': 300, 'shard="1"': 150, f'{R}, shard="router"': 50, f'{S}, shard="router"': 50}],
    "KV cache": [{f'{R}, kind="used"': 100, f'{S}, kind="used"': 200}],
}
EXPECTED = SERVING | ALL_TO_ALL | BALANCE | SHARDS | MEMORY
# These show recordings and alerts as they are; one more asks for a phase that has no series here.
PLAIN = {"First token, p95", "Time to first token", "Between two tokens", "End to end", "Firing alerts"}
PLAIN |= {"Waiting before compute"}


def test_every_panel_is_computed_here_or_named_as_not() -> None:
    titles = [panel.title for _, panel in {(board.uid, panel.title): panel for board, panel, _ in each_query()}.items()]
    assert sorted(titles) == sorted(EXPECTED.keys() | PLAIN)


def test_of_two_clusters_of_one_model_the_chosen_one_is_shown(tmp_path: Path) -> None:
    run(tmp_path, [*series("prod"), *series("staging", 3.0)], checks(("prod",), namespace="prod"))


def test_a_cluster_without_a_namespace_is_shown_too(tmp_path: Path) -> None:
    run(tmp_path, series(), checks(("",)))


def test_clusters_of_one_model_are_shown_apart(tmp_path: Path) -> None:
    """With or without a namespace, one beside the other. What is of all that is chosen adds up and is left out."""
    where = ("prod", "staging", "")
    apart = [one for one in checks(where) if all("model=" in sample["labels"] for sample in one["exp_samples"])]
    run(tmp_path, [one for place in where for one in series(place)], apart)


def checks(places: tuple[str, ...], **chosen: str) -> list[dict[str, Any]]:
    """promtool's checks of every panel's queries, with the same samples in each namespace of `places`."""
    found: dict[str, int] = {}
    tests = []
    for _, panel, query in each_query():
        if panel.title in PLAIN:
            continue
        number = found[panel.title] = found.get(panel.title, -1) + 1
        values = EXPECTED[panel.title][number]
        if values is not None:
            expr = f"round({substituted(query.expr, **chosen)}, 0.000001)"
            tests.append({"expr": expr, "eval_time": NOW, "exp_samples": _samples(values, places)})
    return tests


def _samples(values: dict[str, float], places: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {"labels": _labels(key, place), "value": value}
        for key, value in values.items()
        for place in (places if not key.startswith("{") else places[:1])
    ]


def _labels(key: str, place: str) -> str:
    if key.startswith("{"):
        return key
    return "{" + ", ".join([*([f'namespace="{place}"'] if place else []), 'model="m"', *([key] if key else [])]) + "}"


def run(folder: Path, inputs: list[dict[str, str]], tests: list[dict[str, Any]]) -> None:
    """Have promtool evaluate recordings and then expressions.

    Raises:
        AssertionError: an expression has other samples, which promtool names.
    """
    files = [path for path in RULE_FILES if path.parent.name == "rules"]
    groups = [group["name"] for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    test = {"interval": "15s", "input_series": inputs, "promql_expr_test": tests}
    written = {"rule_files": [str(path) for path in files], "evaluation_interval": "15s", "group_eval_order": groups}
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(written | {"tests": [test]}))
    promtool.run("test", "rules", str(path))

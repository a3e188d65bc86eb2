"""Panels, rules and alerts against a real Prometheus that scrapes a real cluster. Takes some minutes.

Intervals, windows and waits are those of production divided by `scale.FACTOR`; the windows inside a router (a minute
for the gauges of balance and overhead) are what they are.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana.panel import Board, Panel, Query, State
from deploy.grafana.variables import LABELS
from tests.dashboards.expressions import exported
from tests.dashboards.live.checkpoints import DEAD_EXPERTS, SHARDS
from tests.dashboards.live.scale import FACTOR, scaled, scaled_expression
from tests.dashboards.live.scenario import Record, played
from tests.dashboards.live.server import alert_id
from tests.dashboards.panels import each_query, substituted
from tests.dashboards.rules import Rule, alerts, recordings

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1200)]

# Its short window is longer than what follows.
OUTLASTS = math.inf
# Alert to what brings it on, what ends it, and within how many seconds it must fire and be over: windows and waits
# divided by the factor, and room for a busy machine.
EXPECTED = {
    # The gauge's own minute is not divided, so it fades slowly.
    "ExpertMeshAllToAllOverheadHigh": ("shard slows", "shard is fast", 90, 90),
    "ExpertMeshKVCacheNearFull": ("overload begins", "overload ends", 60, 30),
    "ExpertMeshQueueGrowing": ("overload begins", "overload ends", 60, 45),
    "ExpertMeshShardDown": ("shard hangs", "shard back", 20, 15),
    "ExpertMeshErrorBudgetBurn/1h": ("shard hangs", "shard back", 60, 60),
    "ExpertMeshErrorBudgetBurn/6h": ("shard hangs", "router back", 120, OUTLASTS),
    "ExpertMeshShardRestarting": ("shard restarts", "shard stays", 60, 90),
    "ExpertMeshRouterNotReady": ("router gone", "router back", 60, 30),
    "ExpertMeshTargetMissing": ("target gone", "target back", 30, 15),
    "ExpertMeshImbalanceHigh": ("skew begins", "skew ends", 100, 60),
    "ExpertMeshDeadExperts": ("skew begins", "skew ends", 120, 60),
}
# Their waits are longer than the scenario, or their clusters larger, with copies: promtool's tests have them.
NOT_PLAYED = {
    "ExpertMeshErrorBudgetBurn/1d",
    "ExpertMeshRoutersMissing",
    "ExpertMeshExpertsUnavailable",
    "ExpertMeshDegradedTokens",
    "ExpertMeshFailoversFrequent",
    "ExpertMeshHedgedAsksHigh",
    "ExpertMeshLinkSuspect",
    "ExpertMeshBalancerDead",
    "ExpertMeshMigrationFailed",
    "ExpertMeshMigrationStuck",
    "ExpertMeshBalancerGainMissed",
}
# Recordings of windows that are longer than the scenario have what there is of it.
RATE_INTERVAL = scaled("60s")
ALERTS = {alert_id({"alertname": alert.alert, **alert.labels}) for alert in alerts()}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    with played(tmp_path_factory.mktemp("dashboards")) as seen:
        yield seen


def test_nothing_fires_in_ten_healthy_minutes(record: Record) -> None:
    begin, end = record.marks["health begins"], record.marks["health ends"]
    assert (end - begin) * FACTOR >= 600
    fired = {alert for alert in ALERTS if record.prometheus.firing_times(alert, begin + 1, end)}
    assert fired == set()


@pytest.mark.parametrize("alert", EXPECTED)
def test_an_alert_fires_and_resolves(record: Record, alert: str) -> None:
    cause, over, within, resolved_within = EXPECTED[alert]
    begin, back = record.marks[cause], record.marks[over]
    fired = [at for at in record.prometheus.firing_times(alert, begin, record.marks["end"]) if at > begin]
    assert fired, f"{alert} did not fire after {cause}"
    last = max((at for at in fired if at < _next_cause(record, alert, back)), default=begin)
    assert fired[0] - begin <= within, f"{alert} fired late after '{cause}'"
    assert last - back <= resolved_within, f"{alert} was over late after '{over}'"


def _next_cause(record: Record, alert: str, back: float) -> float:
    """When something else may bring the same alert on: the targets go a second time, the errors come again."""
    others = {
        "ExpertMeshTargetMissing": back + 30,
        "ExpertMeshErrorBudgetBurn/1h": record.marks["shard restarts"],
        "ExpertMeshShardDown": record.marks["shard restarts"],
    }
    return others.get(alert, record.marks["end"])


def test_after_the_skew_the_measures_are_good_again(record: Record) -> None:
    """The alerts end with the skewed cluster already; here the even one that follows is judged by its own values."""
    end = record.marks["end"]
    assert not record.prometheus.query('ALERTS{alertname=~"ExpertMesh(ImbalanceHigh|DeadExperts)"}', end)
    samples = record.prometheus.query("model:expertmesh_balancedness:avg5m", end)
    assert [float(sample["value"][1]) > 0.85 for sample in samples] == [True]
    skewed = record.prometheus.query("model:expertmesh_balancedness:avg5m", record.instants[State.SKEWED])
    assert [float(sample["value"][1]) < 0.6 for sample in skewed] == [True]
    dead = record.prometheus.query("model:expertmesh_dead_experts:sum", record.instants[State.SKEWED])
    assert [float(sample["value"][1]) for sample in dead] == [DEAD_EXPERTS]


def test_every_alert_is_played_here_or_named_as_not() -> None:
    assert set(EXPECTED) | NOT_PLAYED == ALERTS


def each_query_and_state() -> Iterator[Any]:
    """All queries of all panels, each with every state in which it must have data."""
    for board, panel, query in each_query():
        for state in (one for one in State if one in panel.states):
            name = f"{board.uid}-{panel.title}-{query.legend}-{state.value}"
            yield pytest.param(board, panel, query, state, id=name)


@pytest.mark.parametrize(("board", "panel", "query", "state"), list(each_query_and_state()))
def test_a_panel_has_data(record: Record, board: Board, panel: Panel, query: Query, state: State) -> None:
    expr = substituted(query.expr, RATE_INTERVAL, scaled("15m"))
    samples = record.prometheus.query(expr, record.instants[state])
    finite = [sample for sample in samples if math.isfinite(float(sample["value"][1]))]
    assert finite, f"{board.title}, {panel.title}: no data from {expr}"


@pytest.mark.parametrize("rule", recordings(), ids=lambda rule: rule.name)
def test_a_recording_has_data(record: Record, rule: Rule) -> None:
    names = ", ".join(f'{name}="{value}"' for name, value in rule.labels.items())
    samples = record.prometheus.query(f"{rule.record}{{{names}}}", record.instants[State.HEALTHY])
    assert [sample for sample in samples if math.isfinite(float(sample["value"][1]))]


def test_prometheus_evaluates_every_rule(record: Record) -> None:
    groups = record.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(recordings()) + len(alerts())
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize(
    "query", [pytest.param(query, id=f"{alert.name}-{query}") for alert in alerts() for query in alert.queries]
)
def test_an_annotations_query_has_data(record: Record, query: str) -> None:
    expr = scaled_expression(query.replace("'m'", "'tiny'"))
    assert record.prometheus.query(expr, record.instants[State.DEAD]), expr


@pytest.mark.parametrize("name", LABELS)
def test_a_variable_has_values(record: Record, name: str) -> None:
    """But for the namespace, which a plain scrape does not attach: All must match series without it."""
    query = LABELS[name].removeprefix("label_values(").removesuffix(f", {name})")
    values = record.prometheus.get(f"label/{name}/values", **{"match[]": substituted(query)})
    assert bool(values) is (name != "namespace")


def test_discovery_finds_the_same_series_with_the_same_labels(record: Record) -> None:
    static = record.prometheus.query("expertmesh_shard_up", record.instants[State.HEALTHY])
    found = [sorted(sample["metric"].items()) for sample in record.discovered]
    assert sorted(found) == sorted(sorted(sample["metric"].items()) for sample in static)
    assert len(found) == SHARDS


def test_the_file_of_series_is_what_a_cluster_exports(record: Record) -> None:
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(record.page):
        for sample in family.samples:
            seen.setdefault(sample.name, set()).update(sample.labels)
    listed = {name: set(labels) for name, labels in exported().items()}
    assert {name: seen.get(name) for name in listed} == listed

"""Every name and label in every expression exists."""

import re

import pytest

from deploy.grafana.panel import Board, Kind, Panel, Query
from deploy.grafana.render import RESTARTS
from deploy.grafana.variables import LABELS
from tests.dashboards.expressions import UnknownError, labels_of
from tests.dashboards.panels import each_query, legend_labels, substituted
from tests.dashboards.rules import Rule, alerts, all_rules

QUERIES = list(each_query())
IDS = [f"{board.uid}-{panel.title}-{query.legend}" for board, panel, query in QUERIES]
# A selector's beginning, so each series that an expression asks for.
SERIES = re.compile(r"[\w:]+\{")


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_a_rule_asks_for_what_there_is_and_keeps_clusters_apart(rule: Rule) -> None:
    """A cluster is a model in a namespace. Without targets there is no model to name."""
    assert labels_of(rule.expr) >= {"namespace", *(["model"] if "expertmesh_" in rule.expr else [])}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_annotation_names_labels_that_its_alert_has(alert: Rule) -> None:
    assert alert.used_labels <= labels_of(alert.expr)
    for query in alert.queries:
        assert labels_of(query) or query.startswith("sum(")


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=IDS)
def test_a_panel_asks_for_what_there_is(board: Board, panel: Panel, query: Query) -> None:
    labels = labels_of(substituted(query.expr))
    assert legend_labels(query) <= labels, (board.title, panel.title)
    assert {name for name in (panel.rows, panel.columns) if name} <= labels


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=IDS)
def test_a_panels_series_are_of_the_namespaces_chosen_and_kept_apart(board: Board, panel: Panel, query: Query) -> None:
    """Where there is but one number, or one heatmap, it is of all that is chosen."""
    assert query.expr.count('namespace=~"$namespace"') == len(SERIES.findall(query.expr)), board.title
    of_all = panel.kind is Kind.HEATMAP or not (query.legend or panel.rows)
    assert of_all or "namespace" in labels_of(substituted(query.expr))


def test_variables_and_marks_ask_for_what_there_is() -> None:
    assert labels_of(substituted(RESTARTS))
    for name, query in LABELS.items():
        series = query.removeprefix("label_values(").removesuffix(f", {name})")
        assert name in labels_of(substituted(series))


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("expertmesh_num_request_running", "nobody exports"),
        ('expertmesh_shard_up{shrad="1"}', "no label ['shrad']"),
        ("sum by (shard) (expertmesh_num_requests_running)", "no label ['shard']"),
        ("rate(expertmesh_step_seconds_total[5m])", "nobody exports"),
        ("histogram_quantile(0.9, sum by (model) (rate(expertmesh_step_seconds_bucket[5m])))", "no label ['le']"),
        ("sum by (model) (expertmesh_shard_up) / sum by (shard) (expertmesh_shard_up)", "never matches"),
        ("expertmesh_shard_up * on (phase) group_left () expertmesh_router_ready", "no label ['phase']"),
        ("sum by (model) (model:expertmesh_requests:rate5m) > model:expertmesh_request:rate5m", "nobody exports"),
    ],
)
def test_a_mistake_is_found(expr: str, said: str) -> None:
    with pytest.raises(UnknownError) as error:
        labels_of(expr)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("sum(expertmesh_shard_up)", ""),
        ("sum by (shard) (expertmesh_shard_up) > 0", "shard"),
        ("max without (instance, job) (expertmesh_router_ready)", "model namespace router"),
        ("topk(3, sum by (model) (expertmesh_shard_up))", "model"),
        ("1 - avg by (router) (expertmesh_router_ready)", "router"),
        ("histogram_quantile(0.9, sum by (kind, le) (rate(expertmesh_step_seconds_bucket[5m])))", "kind"),
        (
            "sum by (model, shard) (expertmesh_shard_up)"
            " * on (model) group_left () sum by (model) (expertmesh_router_ready)",
            "model shard",
        ),
        ("sum by (model) (expertmesh_shard_up) or sum by (shard) (expertmesh_shard_up)", "model shard"),
    ],
)
def test_labels_follow_from_an_expressions_form(expr: str, labels: str) -> None:
    assert labels_of(expr) == frozenset(labels.split())

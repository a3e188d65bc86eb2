"""The panels' queries as Prometheus gets them: what Grafana puts in for variables."""

import re
from collections.abc import Iterator

from deploy.grafana.generate import BOARDS
from deploy.grafana.panel import Board, Panel, Query

LEGEND_LABEL = re.compile(r"{{\s*(\w+)\s*}}")
# Grafana: four scrape intervals at least.
RATE_INTERVAL = "60s"
RANGE = "15m"
# All: the variables' own value for it.
VALUES = {"namespace": ".*", "model": ".*", "router": ".*", "shard": ".*"}


def each_query() -> Iterator[tuple[Board, Panel, Query]]:
    """All queries of all panels."""
    for board in BOARDS:
        for panel in board.panels:
            for query in panel.queries:
                yield board, panel, query


def substituted(expr: str, rate_interval: str = RATE_INTERVAL, range_: str = RANGE, **chosen: str) -> str:
    """What Grafana sends when every variable is All, but for those that are `chosen`."""
    expr = expr.replace("$__rate_interval", rate_interval).replace("$__range", range_)
    for name, value in (VALUES | chosen).items():
        expr = expr.replace(f"${name}", value)
    return expr


def legend_labels(query: Query) -> set[str]:
    """Labels that a legend names."""
    return set(LEGEND_LABEL.findall(query.legend))

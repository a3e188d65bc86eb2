"""Turns panels and boards into Grafana's own model, by its SDK."""

from collections.abc import Callable
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.panel import OF_NOW, Board, Kind, Panel, Query
from deploy.grafana.promql import KEYS, MODEL, rate
from deploy.grafana.variables import DATASOURCE, variables

HEIGHT = 8
STAT_HEIGHT = 4
TAG = "expertmesh"
RESTARTS = f"max by ({KEYS}, shard) ({rate('shard_restarts_total', MODEL)}) > 0"


def render(board: Board, runbooks: str) -> models.Dashboard:
    """Return the dashboard; `runbooks` is the address at which runbooks are published: without it none is linked."""
    builder = dashboard.Dashboard(board.title).uid(board.uid).description(board.about).tags([TAG])
    builder = builder.time("now-1h", "now").refresh("15s").readonly().tooltip(models.DashboardCursorSync.CROSSHAIR)
    for variable in variables():
        builder = builder.with_variable(variable)
    builder = builder.annotation(_restarts())
    for row in board.rows:
        builder = builder.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            builder = builder.with_panel(_panel(panel, runbooks))
    builder = builder.link(_siblings())
    return _numbered((builder.link(_runbook("Runbooks", runbooks, "README")) if runbooks else builder).build())


def _numbered(board: models.Dashboard) -> models.Dashboard:
    """Ids in order: without them Grafana draws its own, and a link to a panel would not last."""
    for number, panel in enumerate(board.panels or [], start=1):
        panel.id_val = number
    return board


def _restarts() -> dashboard.AnnotationQuery:
    """A mark on every graph where a shard was replaced."""
    mark = dashboard.AnnotationQuery().name("Shard restarts").datasource(DATASOURCE).icon_color("red")
    return mark.enable(True).expr(RESTARTS)


def _siblings() -> Builder[models.DashboardLink]:
    link = dashboard.DashboardLink("ExpertMesh").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).include_vars(True).keep_time(True)


def _runbook(title: str, runbooks: str, name: str) -> Builder[models.DashboardLink]:
    link = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).icon("doc")
    return link.url(f"{runbooks.rstrip('/')}/{name}.md").target_blank(True)


def _panel(panel: Panel, runbooks: str) -> Any:
    builder = _KINDS[panel.kind](panel).title(panel.title).description(panel.about).unit(panel.unit)
    builder = builder.datasource(DATASOURCE).span(panel.width)
    builder = builder.height(STAT_HEIGHT if panel.kind is Kind.STAT else HEIGHT)
    for number, query in enumerate(panel.queries):
        builder = builder.with_target(_target(panel, query, "ABCDEFGH"[number]))
    if panel.bounds is not None:
        builder = builder.thresholds(_thresholds(*panel.bounds))
    if panel.runbook and runbooks:
        builder = builder.links([_runbook("Runbook", runbooks, panel.runbook)])
    return builder.repeat(panel.repeat).max_per_row(4) if panel.repeat else builder


def _target(panel: Panel, query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(_legend(panel, query))
    target = target.instant() if panel.kind in OF_NOW else target.range()
    if panel.kind is Kind.HEATMAP:
        return target.format(PromQueryFormat.HEATMAP)
    return target.format(PromQueryFormat.TABLE) if panel.kind in (Kind.TABLE, Kind.MATRIX) else target


def _legend(panel: Panel, query: Query) -> str:
    """The legend, and the namespace at its end, where none leaves no gap. A heatmap's is the bound of a bucket."""
    if not query.legend or panel.kind is Kind.HEATMAP:
        return query.legend or "__auto"
    return f"{query.legend} {{{{namespace}}}}"


def _thresholds(warning: float, critical: float) -> dashboard.ThresholdsConfig:
    """Green, yellow, red; where less is worse, red lies below."""
    rising = warning <= critical
    colors = ("green", "yellow", "red") if rising else ("red", "yellow", "green")
    values = (None, *sorted((warning, critical)))
    steps = [models.Threshold(value, color) for value, color in zip(values, colors, strict=True)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM)
    legend = legend.display_mode(common_models.LegendDisplayMode.LIST)
    builder = timeseries.Panel().legend(legend).fill_opacity(5).show_points(common_models.VisibilityMode.NEVER).min(0)
    if panel.bounds is not None:
        style = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        builder = builder.thresholds_style(style)
    return builder


def _stacked(panel: Panel) -> timeseries.Panel:
    stacking = common.StackingConfig().mode(common_models.StackingMode.NORMAL)
    return _lines(panel).stacking(stacking).fill_opacity(60)


def _stat(_: Panel) -> stat.Panel:
    return stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def _states(_: Panel) -> statetimeline.Panel:
    texts = {
        "0": models.ValueMappingResult(text="down", color="red"),
        "1": models.ValueMappingResult(text="up", color="green"),
    }
    return statetimeline.Panel().mappings([models.ValueMap(options=texts)])


def _heatmap(panel: Panel) -> heatmap.Panel:
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    # The query's buckets are what it draws, and theirs is the unit.
    builder = heatmap.Panel().color(color.exponent(0.5).fill("dark-orange")).calculate(False)
    return builder.y_axis(heatmap.YAxisConfig().unit(panel.unit))


def _table(_: Panel) -> table.Panel:
    # Only what the query keeps is worth a column.
    hidden = {"excludeByName": {"Time": True, "__name__": True}}
    return table.Panel().with_transformation(models.DataTransformerConfig("organize", options=hidden))


def _matrix(panel: Panel) -> table.Panel:
    """A table of one label against another, its cells coloured by the value."""
    fields = {"rowField": panel.rows, "columnField": panel.columns, "valueField": "Value", "emptyValue": "empty"}
    background = common_models.TableColoredBackgroundCellOptions(common_models.TableCellBackgroundDisplayMode.GRADIENT)
    builder = table.Panel().with_transformation(models.DataTransformerConfig("groupingToMatrix", options=fields))
    return builder.cell_options(background).decimals(2).width(60)


_KINDS: dict[Kind, Callable[[Panel], Any]] = {
    Kind.LINES: _lines,
    Kind.STACKED: _stacked,
    Kind.STAT: _stat,
    Kind.STATES: _states,
    Kind.HEATMAP: _heatmap,
    Kind.TABLE: _table,
    Kind.MATRIX: _matrix,
}

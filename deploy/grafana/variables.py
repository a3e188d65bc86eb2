"""The choices above every dashboard: data source, model, router, shard, and where the runbooks are."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS = "runbooks"
# Variable to the query of its values; each narrows those after it.
LABELS = {
    "model": "label_values(expertmesh_num_requests_running, model)",
    "router": 'label_values(expertmesh_num_requests_running{model=~"$model"}, router)',
    "shard": 'label_values(expertmesh_shard_up{model=~"$model"}, shard)',
}


def variables(runbooks: str) -> list[Builder[models.VariableModel]]:
    """All variables, in order."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    place = dashboard.TextBoxVariable(RUNBOOKS).label("Runbooks at").default_value(runbooks)
    place = place.current(models.VariableOption(text=runbooks, value=runbooks))
    return [source, *(_label(name, query) for name, query in LABELS.items()), place]


def _label(name: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(name.capitalize()).query(query).datasource(DATASOURCE)
    # A router's name changes when it is replaced: All must mean those that come later too.
    variable = variable.multi(True).include_all(True).all_value(".*")
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.current(models.VariableOption(text="All", value="$__all")).sort(models.VariableSort.NATURAL_ASC)

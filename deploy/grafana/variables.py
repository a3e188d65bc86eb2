"""The choices above every dashboard: data source, namespace, model, router, shard."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from deploy.grafana.promql import MODEL, NAMESPACE

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Variable to the query of its values; each narrows those after it.
LABELS = {
    # Of what is there also when nothing answers. Scrapes that attach no namespace leave All alone to choose.
    "namespace": "label_values(expertmesh_routers_configured, namespace)",
    "model": f"label_values(expertmesh_routers_configured{{{NAMESPACE}}}, model)",
    "router": f"label_values(expertmesh_num_requests_running{{{MODEL}}}, router)",
    "shard": f"label_values(expertmesh_shard_up{{{MODEL}}}, shard)",
}


def variables() -> list[Builder[models.VariableModel]]:
    """All variables, in order."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return [source, *(_label(name, query) for name, query in LABELS.items())]


def _label(name: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(name.capitalize()).query(query).datasource(DATASOURCE)
    # A router's name changes when it is replaced: All must mean those that come later too. It also matches series that
    # lack the label, as the namespace may.
    variable = variable.multi(True).include_all(True).all_value(".*")
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.current(models.VariableOption(text="All", value="$__all")).sort(models.VariableSort.NATURAL_ASC)

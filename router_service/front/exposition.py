"""The metrics page: the Front's own series and the routers', each family once."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router_service.messages import MetricFamily, RouterReport


class MergedCollector(Collector):
    """Families of `registry` and of the latest reports, merged by name. A lost router takes its series along."""

    def __init__(self, registry: CollectorRegistry, reports: Callable[[], list[RouterReport]]) -> None:
        self._registry = registry
        self._reports = reports

    def collect(self) -> Iterable[Metric]:
        """Return the families; called on a scrape's thread."""
        merged: dict[str, _Family] = {}
        for metric in self._registry.collect():
            merged.setdefault(metric.name, _Family(metric.name, metric.documentation, metric.type)).add(metric)
        for report in self._reports():
            for family in report.families:
                metric = to_metric(family)
                merged.setdefault(metric.name, _Family(metric.name, metric.documentation, metric.type)).add(metric)
        return [family.metric for family in merged.values()]


class _Family:
    """A family that is being put together: what contradicts it or repeats one of its samples is left out."""

    def __init__(self, name: str, documentation: str, type: str) -> None:
        self.metric = Metric(name, documentation, type)
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def add(self, other: Metric) -> None:
        if other.type != self.metric.type:
            return
        for sample in other.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            if key not in self._seen and not sample.name.endswith("_created"):
                self._seen.add(key)
                self.metric.samples.append(sample)


def to_metric(family: MetricFamily) -> Metric:
    """Return a router's family as prometheus_client's; a counter's name loses its suffix, as that library wants."""
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    metric = Metric(name, family.documentation, family.type)
    for sample in family.samples:
        metric.add_sample(sample.name, sample.labels, sample.value)
    return metric

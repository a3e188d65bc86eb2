"""The metrics page: the Front's own series and the routers', each family once."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router_service.protocol.messages import MetricFamily, RouterReport


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
    """A family that is being put together: what contradicts it is left out.

    What several routers pass on of one shard comes once. Of a counter the furthest is taken: when the router that knew
    it is gone, another's older count would look like a restart of the shard.
    """

    def __init__(self, name: str, documentation: str, type: str) -> None:
        self.metric = Metric(name, documentation, type)
        self._places: dict[tuple[str, frozenset[tuple[str, str]]], int] = {}

    def add(self, other: Metric) -> None:
        if other.type != self.metric.type:
            return
        for sample in other.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            if sample.name.endswith("_created"):
                continue
            place = self._places.setdefault(key, len(self._places))
            if place == len(self.metric.samples):
                self.metric.samples.append(sample)
            elif self.metric.type == "counter" and sample.value > self.metric.samples[place].value:
                self.metric.samples[place] = sample


def to_metric(family: MetricFamily) -> Metric:
    """Return a router's family as prometheus_client's; a counter's name loses its suffix, as that library wants."""
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    metric = Metric(name, family.documentation, family.type)
    for sample in family.samples:
        metric.add_sample(sample.name, sample.labels, sample.value)
    return metric

"""The metrics page: the Front's own series merged with the routers', each family once."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router_service.protocol.messages import MetricFamily, RouterReport


class MergedCollector(Collector):
    """Families of `registry` and of the latest reports, merged by name. A lost router's series disappear."""

    def __init__(self, registry: CollectorRegistry, reports: Callable[[], list[RouterReport]]) -> None:
        self._registry = registry
        self._reports = reports

    def collect(self) -> Iterable[Metric]:
        """Return the merged families. Called on the thread of a scrape."""
        merged: dict[str, _Family] = {}
        for metric in self._registry.collect():
            merged.setdefault(metric.name, _Family(metric.name, metric.documentation, metric.type)).add(metric)
        for report in self._reports():
            for family in report.metric_families:
                metric = to_metric(family)
                merged.setdefault(metric.name, _Family(metric.name, metric.documentation, metric.type)).add(metric)
        return [family.metric for family in merged.values()]


class _Family:
    """A family being merged; samples of another type than the first are left out.

    A sample that several routers pass on for one shard appears once. For counters the highest value is kept: when the
    router that had it is gone, another's older count would look like a restart of the shard.
    """

    def __init__(self, name: str, documentation: str, type: str) -> None:
        self.metric = Metric(name, documentation, type)
        self._places: dict[tuple[str, frozenset[tuple[str, str]]], int] = {}

    def add(self, other: Metric) -> None:
        if other.type != self.metric.type:
            return
        for sample in other.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            # prometheus_client adds one to each counter and histogram, and no dashboard or rule reads them.
            if sample.name.endswith("_created"):
                continue
            place = self._places.setdefault(key, len(self._places))
            if place == len(self.metric.samples):
                self.metric.samples.append(sample)
            elif self.metric.type == "counter" and sample.value > self.metric.samples[place].value:
                self.metric.samples[place] = sample


def to_metric(family: MetricFamily) -> Metric:
    """Return a router's family as a prometheus_client one; that library expects counter names without `_total`."""
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    metric = Metric(name, family.documentation, family.type)
    for sample in family.samples:
        metric.add_sample(sample.name, sample.labels, sample.value)
    return metric

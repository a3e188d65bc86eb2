"""A router's series as a scraper reads them from the Front's page."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics import parser as strict
from prometheus_client.parser import text_string_to_metric_families

from router_service.config import MetricsConfig
from router_service.front.telemetry.exposition import MergedCollector
from router_service.front.telemetry.metrics import FrontMetrics
from router_service.metrics.collector import Statistics
from router_service.metrics.router_series import Gauges, LinkGauges, router_families
from router_service.protocol.messages import MetricFamily, RouterReport

Page = dict[str, Metric]

LABELS = {"model": "m", "router": "r0"}
LINKS = (LinkGauges("a", True, 0, 0, 0.0), LinkGauges("b", False, 2, 3, 0.25), LinkGauges("", False, 0, 0, 0.0))
FAILURES = ({"engine": 0, "front writer": 1}, {"statistics": 2})
GAUGES = Gauges(3, 2, 10, 40, 4000, 500, 60, 1000, 100, 1.5, {"magic": 4}, LINKS, *FAILURES, 5)
DEFAULTS = MetricsConfig()


def registry_of(families: list[MetricFamily]) -> CollectorRegistry:
    """What a Front that knows one router has to say."""
    report = RouterReport("r0", 0, 0, 0, 1, 0.0, 0.0, 1.0, 1.0, [], families)
    registry = CollectorRegistry()
    registry.register(MergedCollector(FrontMetrics("m").registry, lambda: [report]))
    return registry


def text_of(families: list[MetricFamily]) -> str:
    """The whole page."""
    return generate_latest(registry_of(families)).decode()


def openmetrics(families: list[MetricFamily]) -> list[Metric]:
    """The same page as OpenMetrics, read back by its strict parser."""
    return list(strict.text_string_to_metric_families(exposition.generate_latest(registry_of(families)).decode()))


def page(families: list[MetricFamily]) -> Page:
    """The families by name."""
    return {family.name: family for family in text_string_to_metric_families(text_of(families))}


def exposed(stats: Statistics, config: MetricsConfig = DEFAULTS, gauges: Gauges = GAUGES) -> Page:
    """What a router says whose last minute is all that was counted."""
    stats.settle()
    return page(router_families(stats, stats.totals, gauges, LABELS, config))


def value(metrics: Page, name: str, **labels: str) -> float:
    """The one sample called `name` with these labels among its own."""
    found = [
        sample.value
        for family in metrics.values()
        for sample in family.samples
        if sample.name == f"expertmesh_{name}" and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]

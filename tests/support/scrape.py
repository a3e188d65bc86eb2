"""A router's series as a scraper reads them from the Front's page."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics import parser as strict
from prometheus_client.parser import text_string_to_metric_families

from experts.links.state import LinkState
from router_service.config import MetricsConfig
from router_service.engine.admission.constraints import ConstraintFigures
from router_service.front.telemetry.exposition import MergedCollector
from router_service.front.telemetry.metrics import FrontMetrics
from router_service.metrics.collector import Statistics
from router_service.metrics.failure_series import FailureGauges
from router_service.metrics.router_series import ConnectionGauges, Gauges, router_series
from router_service.protocol.messages import MetricFamily, RouterReport

Page = dict[str, Metric]

LABELS = {"model": "m", "router": "r0"}
CONNECTIONS = tuple(
    ConnectionGauges(replica=replica, up=up, restarts=restarts, reconnects=reconnects, clock_error_s=error)
    for replica, up, restarts, reconnects, error in (
        ("a", True, 0, 0, 0.0),
        ("b", False, 2, 3, 0.25),
        ("", False, 0, 0, 0.0),
    )
)
FAILURE = FailureGauges(
    fallback_tokens={"wait": 0, "drop": 3},
    links=(LinkState.LIVE, LinkState.DEAD, LinkState.DIALING),
    copies=(1, 0, 0),
    unavailable=4,
    epoch=6,
)
GAUGES = Gauges(
    running=3,
    waiting=2,
    kv_blocks_used=10,
    kv_blocks_total=40,
    kv_bytes=4000,
    dense_bytes=500,
    shared_expert_bytes=60,
    parameters_total=1000,
    parameters_active=100,
    router_load_seconds=1.5,
    preemptions=7,
    prefix_cache_queries=100,
    prefix_cache_hits=60,
    rejected={"magic": 4},
    connections=CONNECTIONS,
    thread_failures={"engine": 0, "front writer": 1},
    observer_failures={"statistics": 2},
    nonfinite_logits=5,
    failure=FAILURE,
    request_faults=4,
    constraints=ConstraintFigures(tokens=30, mask_wait_seconds=0.5, compile_seconds=0.25),
)
DEFAULTS = MetricsConfig()


def registry_of(metric_families: list[MetricFamily]) -> CollectorRegistry:
    """What a Front that knows one router has to say."""
    report = RouterReport(
        router="r0",
        running=0,
        waiting=0,
        kv_blocks_used=0,
        kv_blocks_total=1,
        decode_tokens_per_second=0.0,
        overhead_ratio=0.0,
        shard_imbalance=1.0,
        expert_imbalance=1.0,
        shards=[],
        metric_families=metric_families,
    )
    registry = CollectorRegistry()
    registry.register(MergedCollector(FrontMetrics("m").registry, lambda: [report]))
    return registry


def text_of(metric_families: list[MetricFamily]) -> str:
    """The whole page."""
    return generate_latest(registry_of(metric_families)).decode()


def openmetrics(metric_families: list[MetricFamily]) -> list[Metric]:
    """The same page as OpenMetrics, read back by its strict parser."""
    return list(
        strict.text_string_to_metric_families(exposition.generate_latest(registry_of(metric_families)).decode())
    )


def page(metric_families: list[MetricFamily]) -> Page:
    """The metric families by name."""
    return {family.name: family for family in text_string_to_metric_families(text_of(metric_families))}


def exposed(stats: Statistics, config: MetricsConfig = DEFAULTS, gauges: Gauges = GAUGES) -> Page:
    """What a router says whose last minute is all that was counted."""
    stats.flush()
    return page(router_series(stats, stats.cumulative, gauges, LABELS, config))


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

"""What the balancer does, as series: from the control plane's report, read at each scrape.

Every Front has the same report, so with several Fronts each series comes once from each: rules and dashboards take the
`max by` all labels but the instance.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router_service.protocol.balance import BalanceReport, PlanReport

# Only these: a label's values are bounded whatever a report says.
RESULTS = ("moved", "kept", "failed")
IN_PROGRESS = ("preparing", "switched")
# Whose gains can be compared: a plan that shards only prepare for, or that has failed, gives nothing.
IN_EFFECT = ("switched", "done")

Values = Iterable[tuple[str, float]]


class BalanceSeries(Collector):
    """Reads `report` on the thread of a scrape; None is a balancer that was not heard yet, which has no series."""

    def __init__(self, model: str, report: Callable[[], BalanceReport | None]) -> None:
        self._model = model
        self._report = report

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        report = self._report()
        return [] if report is None else [*self._balancer(report), *self._placement(report), *self._migration(report)]

    def _balancer(self, report: BalanceReport) -> Iterator[Metric]:
        # All results from the first scrape on, or a rate would miss the first of each.
        runs = [(result, report.runs.get(result, 0)) for result in RESULTS]
        yield self._counter("balancer_runs", "The balancer's looks at what was routed, by result", runs, "result")
        # 0 is never, which is no time: without a sample an age cannot be taken for one of decades.
        yield self._gauge("balancer_last_run_timestamp_seconds", "The balancer's last look", _unless_0(report.last_run))
        text = "The balancer's last look that did not fail"
        yield self._gauge("balancer_last_success_timestamp_seconds", text, _unless_0(report.last_success))
        yield self._one("balancer_interval_seconds", "How often the balancer is to look", report.interval)
        yield self._one("balancer_automatic", "1 where the balancer moves experts by itself", report.automatic)

    def _placement(self, report: BalanceReport) -> Iterator[Metric]:
        yield self._one("placement_pinned", "1 where the balancer leaves the placement as it is", report.pinned)
        yield self._one("placement_decided_epoch", "Epoch of the placement that routers are to use", report.epoch)
        yield self._one("shards_wanted", "Shards that there are to be", report.shards)
        yield self._one("shards_limit", "The most shards that there may be while the cluster runs", report.most_shards)
        text = "Copies that a shard holds: experts of all layers"
        yield self._gauge("expert_replicas", text, _held(report), "shard")
        text = "Copies of experts that shards took over, since the start"
        yield self._counter("experts_moved", text, [("", report.copies_moved)])

    def _migration(self, report: BalanceReport) -> Iterator[Metric]:
        latest = report.plans[-1] if report.plans else None
        going = latest if latest is not None and latest.state in IN_PROGRESS else None
        yield self._one("migration_in_progress", "1 while a placement is prepared or taken up", going is not None)
        began = [] if going is None else [("", going.began)]
        yield self._gauge("migration_started_timestamp_seconds", "When the migration in progress began", began)
        text = "Shards that have what the migration in progress gives them, of those that have to load"
        loading = [] if going is None else [("ready", going.shards_ready), ("all", going.shards_loading)]
        yield self._gauge("migration_shards", text, loading, "state")
        yield self._one("migration_limit_seconds", "How long shards may take to load", report.prepare_seconds)
        for result in ("done", "failed"):
            ended = [one.ended or one.began for one in report.plans if one.state == result]
            text = f"When the last migration ended: {result}"
            yield self._gauge(f"migration_last_{result}_timestamp_seconds", text, [("", at) for at in ended[-1:]])
        yield from self._gains([one for one in report.plans if one.state in IN_EFFECT])

    def _gains(self, plans: list[PlanReport]) -> Iterator[Metric]:
        """Of one and the same plan, the last in effect. Without one there is nothing to tell."""
        predicted = [("", one.predicted_gain) for one in plans[-1:]]
        measured = [("", one.measured_gain) for one in plans[-1:] if one.measured_gain is not None]
        text = "The part of the slowest shard's time that the last plan in effect"
        yield self._gauge("rebalance_predicted_gain_ratio", f"{text} promised to save", predicted)
        yield self._gauge("rebalance_measured_gain_ratio", f"{text} has saved", measured)
        text = "Bytes that shards read for the last plan in effect"
        yield self._gauge("rebalance_bytes", text, [("", one.bytes) for one in plans[-1:]])

    def _one(self, name: str, text: str, value: float) -> Metric:
        return self._gauge(name, text, [("", value)])

    def _gauge(self, name: str, text: str, values: Values, label: str = "") -> Metric:
        return self._filled(GaugeMetricFamily(f"expertmesh_{name}", text, labels=self._labels(label)), values)

    def _counter(self, name: str, text: str, values: Values, label: str = "") -> Metric:
        return self._filled(CounterMetricFamily(f"expertmesh_{name}", text, labels=self._labels(label)), values)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
        for own, value in values:
            family.add_metric([self._model, own] if own else [self._model], float(value))
        return family

    def _labels(self, own: str) -> list[str]:
        return ["model", own] if own else ["model"]


def _unless_0(at: float) -> list[tuple[str, float]]:
    return [("", at)] if at else []


def _held(report: BalanceReport) -> list[tuple[str, float]]:
    """The shards that hold anything or are wanted: there may be room for many more."""
    each = enumerate(report.replicas_S)
    return [(str(shard), count) for shard, count in each if count or shard < report.shards]

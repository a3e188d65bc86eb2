"""A router's report as its Front judges it: whether it is ready follows the link, too."""

import msgspec

from router_service.protocol.messages import MetricFamily, RouterReport, Sample

READY_SERIES = "expertmesh_router_ready"


def judged(report: RouterReport, ready: bool) -> RouterReport:
    """Return `report` with this `ready`, in its field and in its series: the last report of a silent router is old."""
    if report.ready == ready:
        return report
    families = [_judged(family, ready) if family.name == READY_SERIES else family for family in report.metric_families]
    return msgspec.structs.replace(report, ready=ready, metric_families=families)


def _judged(family: MetricFamily, ready: bool) -> MetricFamily:
    samples = [Sample(sample.name, sample.labels, float(ready)) for sample in family.samples]
    return msgspec.structs.replace(family, samples=samples)

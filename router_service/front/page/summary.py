"""The live page's figures for the whole cluster, combined from the reports of all routers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from router_service.protocol.messages import RouterReport


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over routers; the last three are means, None if no router took a step within the last minute.

    Each mean is weighted by what it is a share of, so that an idle router does not count.
    """

    decode_tokens_per_second: float
    running: int
    waiting: int
    kv_share: float
    overhead_ratio: float | None
    shard_imbalance: float | None
    expert_imbalance: float | None


def summarize(reports: Sequence[RouterReport]) -> Summary | None:
    """Return the combined reports, None without any."""
    if not reports:
        return None
    seconds = [report.step_seconds for report in reports]
    assignments = [sum(shard.assignments_per_second for shard in report.shards) for report in reports]
    return Summary(
        decode_tokens_per_second=sum(report.decode_tokens_per_second for report in reports),
        running=sum(report.running for report in reports),
        waiting=sum(report.waiting for report in reports),
        kv_share=_kv_share(reports),
        overhead_ratio=_mean([report.overhead_ratio for report in reports], seconds),
        shard_imbalance=_mean([report.shard_imbalance for report in reports], assignments),
        expert_imbalance=_mean([report.expert_imbalance for report in reports], assignments),
    )


def _kv_share(reports: Sequence[RouterReport]) -> float:
    total = sum(report.kv_blocks_total for report in reports)
    return sum(report.kv_blocks_used for report in reports) / total if total else 0.0


def _mean(values: Sequence[float], weights: Sequence[float]) -> float | None:
    return fmean(values, weights) if any(weights) else None

"""Failures as the live page shows them: links to the shards, the latest failovers, what is degraded or gone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from router_service.protocol.messages import RouterReport

SHOWN_FAILOVERS = 12


def links(reports: Sequence[RouterReport]) -> dict[int, dict[str, int]]:
    """For each shard, how many routers have a link to it in which state; empty where routers do not tell."""
    counts: dict[int, Counter[str]] = {}
    for shard in (shard for report in reports for shard in report.shards):
        counts.setdefault(shard.shard, Counter()).update([shard.link] if shard.link else [])
    return {shard: dict(states) for shard, states in counts.items()}


def failure(reports: Sequence[RouterReport]) -> dict[str, Any]:
    """Return the latest failovers of all routers, the newest first, and sums; of the experts the router with most."""
    failovers = sorted(
        ((failover, report.router) for report in reports for failover in report.failovers),
        key=lambda pair: pair[0].at,
        reverse=True,
    )
    return {
        "failovers": [
            {"at": one.at, "router": router, "shard": one.shard, "reason": one.reason, "seconds": one.seconds}
            for one, router in failovers[:SHOWN_FAILOVERS]
        ],
        "degraded_tokens": sum(report.degraded_tokens for report in reports),
        "unavailable_experts": max((report.unavailable_experts for report in reports), default=0),
        "epoch": max((report.epoch for report in reports), default=0),
    }

"""The balancer as the live page shows it: placement, the latest moves, what they promised and gave, and its silence."""

from typing import Any

from router_service.protocol.balance import BalanceReport, PlanReport

SHOWN_PLANS = 6
# As many as the alert ExpertMeshBalancerDead waits for.
SILENT_INTERVALS = 5


def balance(report: BalanceReport | None, now: float) -> dict[str, Any] | None:
    """Return the state, the newest plan first; None before the balancer was heard. `now` is in seconds since 1970."""
    if report is None:
        return None
    age = max(0.0, now - report.last_run) if report.last_run else None
    return {
        "epoch": report.epoch,
        "automatic": report.automatic,
        "pinned": report.pinned,
        "age": age,
        "silent": age is not None and age > SILENT_INTERVALS * report.interval,
        "result": report.result,
        "reason": report.reason,
        "copies_moved": report.copies_moved,
        "replicas": {shard: copies for shard, copies in enumerate(report.replicas_S) if copies},
        "shards": report.shards,
        "most_shards": report.most_shards,
        "plans": [_plan(plan) for plan in reversed(report.plans[-SHOWN_PLANS:])],
    }


def _plan(plan: PlanReport) -> dict[str, Any]:
    return {
        "epoch": plan.epoch,
        "state": plan.state,
        "reason": plan.reason,
        "added": plan.copies_added,
        "dropped": plan.copies_dropped,
        "bytes": plan.bytes,
        "began": plan.began,
        "ended": plan.ended or None,
        "predicted": plan.predicted_gain,
        "measured": plan.measured_gain,
        "ready": plan.shards_ready,
        "loading": plan.shards_loading,
    }

"""What the live page shows, as one JSON object: made once for all pages, from the latest reports.

Times are in seconds, sizes in bytes. Without activity of a router, `experts` and `steps` are missing.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experts.timing.phase import PHASES
from router_service.front.api.cluster_service import STATES, merge_shards, router_state
from router_service.front.page.balance import balance
from router_service.front.page.failure import failure, links
from router_service.front.page.summary import summarize
from router_service.front.routing.activity_window import WINDOW_SECONDS, ActivityWindow
from router_service.front.routing.router_link import RouterLink
from router_service.protocol import cluster_pb2 as pb
from router_service.protocol.balance import BalanceReport
from router_service.protocol.messages import ShardReport

Json = dict[str, Any]


def snapshot(
    routers: Sequence[RouterLink],
    known: Iterable[ShardReport],
    now: float,
    draining: bool,
    balancer: BalanceReport | None = None,
) -> Json:
    """Return the state; `known` are the control plane's shards, `now` is in the event loop's seconds."""
    for link in routers:
        # A router that sends nothing any more would be shown with its last activity for ever.
        link.window.prune(now)
    windows = [link.window for link in routers if link.window.activities]
    reports = [link.report for link in routers if link.report is not None]
    rates, phases, states = _shard_rates(windows), _shard_phases(windows), links(reports)
    at = time.time()
    return {
        "at": at,
        "draining": draining,
        "summary": summarize(reports),
        "shards": [_shard(shard, rates, phases, states) for shard in merge_shards(reports, known)],
        "routers": [_router(router_state(one.report, one.outstanding)) for one in routers if one.report is not None],
        "failure": failure(reports),
        "balance": balance(balancer, at),
        **({"experts": _experts(windows), "steps": _steps(windows)} if windows else {}),
    }


def _shard(
    shard: pb.Shard,
    rates: dict[int, float],
    phases: dict[int, dict[str, float]],
    states: dict[int, dict[str, int]],
) -> Json:
    """A shard's row. Rates and phases are of the last seconds if a watched router calls it, else of the last minute."""
    serves = shard.state in STATES
    minute = {phase: getattr(shard.phase_seconds, phase) for phase in PHASES} if _busy(shard) else None
    return {
        "shard": shard.shard,
        "replica": shard.replica,
        "state": shard.state,
        "node": shard.node,
        "pid": shard.pid,
        "experts": shard.experts,
        "weights_bytes": shard.weights_bytes,
        "rows_per_second": rates.get(shard.shard, shard.rows_per_second) if serves else 0.0,
        "imbalance": shard.imbalance if shard.HasField("imbalance") else None,
        "phases": phases.get(shard.shard, minute) if serves else None,
        "last_error": shard.last_error,
        "links": states.get(shard.shard, {}),
    }


def _busy(shard: pb.Shard) -> bool:
    return shard.HasField("phase_seconds") and shard.rows_per_second > 0


def _router(router: pb.Router) -> Json:
    """A router's row, with None for unset fields."""
    return {
        field.name: None if field.has_presence and not router.HasField(field.name) else getattr(router, field.name)
        for field in router.DESCRIPTOR.fields
    }


def _shard_rates(windows: Sequence[ActivityWindow]) -> dict[int, float]:
    """Token rows per second of each shard, over all routers."""
    rates: Counter[int] = Counter()
    for window in windows:
        for shard in (shard for _, activity in window.activities for shard in activity.shards):
            rates[shard.shard] += shard.rows / window.seconds  # type: ignore[assignment]
    return dict(rates)


def _shard_phases(windows: Sequence[ActivityWindow]) -> dict[int, dict[str, float]]:
    """Mean seconds of a layer call by phase, for each shard that was called."""
    calls: Counter[int] = Counter()
    sums: dict[int, Counter[str]] = {}
    for activity in (activity for window in windows for _, activity in window.activities):
        for shard in activity.shards:
            calls[shard.shard] += shard.calls
            sums.setdefault(shard.shard, Counter()).update(shard.phase_seconds)
    return {
        shard: {phase: seconds / calls[shard] for phase, seconds in phases.items()}
        for shard, phases in sums.items()
        if calls[shard]
    }


def _experts(windows: Sequence[ActivityWindow]) -> Json:
    # While routers change over to a new placement they differ: the newest is where all will be.
    latest = max((window.activities[-1][1] for window in windows), key=lambda activity: activity.epoch)
    total_LE = np.sum([window.expert_tokens() for window in windows], axis=0)
    return {
        "window_seconds": WINDOW_SECONDS,
        "layers": latest.layers,
        "epoch": latest.epoch,
        "holders": latest.holders,
        "special": latest.special,
        "tokens": total_LE.tolist(),
    }


def _steps(windows: Sequence[ActivityWindow]) -> Json:
    """The latest steps of the router with the most steps, and all routers' seconds by stage."""
    busiest = max(windows, key=lambda window: window.step_count)
    activities = [activity for window in windows for _, activity in window.activities]
    stages = activities[-1].stages
    sums = [sum(column) for column in zip(*(activity.stage_seconds for activity in activities), strict=True)]
    return {
        "router": busiest.activities[-1][1].router,
        "stages": stages,
        "stage_seconds": sums,
        "steps_in_window": sum(activity.step_count for activity in activities),
        "step_count": busiest.step_count,
        "latest": [[step.kind, step.tokens, step.seconds, step.stages] for step in busiest.steps],
    }

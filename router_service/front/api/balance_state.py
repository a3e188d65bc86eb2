"""The control plane's reports of placements that change, as the messages of `cluster.proto`."""

from router_service.protocol import cluster_pb2 as pb
from router_service.protocol.balance import BalanceReport, PlanReport, RebalanceOutcome


def balance_state(report: BalanceReport) -> pb.Balance:
    """Return the balancer's state as GetCluster has it."""
    return pb.Balance(
        epoch=report.epoch,
        automatic=report.automatic,
        pinned=report.pinned,
        last_run=report.last_run,
        last_success=report.last_success,
        result=report.result,
        reason=report.reason,
        plans=[plan_state(plan) for plan in report.plans],
        copies_moved=report.copies_moved,
        shards=report.shards,
        most_shards=report.most_shards,
        interval=report.interval,
    )


def plan_state(plan: PlanReport) -> pb.BalancePlan:
    """Return one plan; a gain that is not measured yet stays unset."""
    return pb.BalancePlan(
        epoch=plan.epoch,
        state=plan.state,
        reason=plan.reason,
        copies_added=plan.copies_added,
        copies_dropped=plan.copies_dropped,
        bytes=plan.bytes,
        began=plan.began,
        ended=plan.ended,
        predicted_gain=plan.predicted_gain,
        measured_gain=plan.measured_gain,
        shards_ready=plan.shards_ready,
        shards_loading=plan.shards_loading,
    )


def rebalance_reply(outcome: RebalanceOutcome) -> pb.RebalanceReply:
    """Return the answer to Rebalance; without a plan it stays unset."""
    return pb.RebalanceReply(
        result=outcome.result,
        reason=outcome.reason,
        plan=None if outcome.plan is None else plan_state(outcome.plan),
        placement=outcome.placement,
    )

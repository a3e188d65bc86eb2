"""The `expertmesh.v1.Cluster` service, and the merging of several routers' views of the shards."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from statistics import fmean

from experts.links.state import LinkState
from experts.timing.phase import PHASES
from router_service.front.api.balance_state import balance_state
from router_service.front.api.calls import Context, answering
from router_service.front.routing.router_pool import RouterPool
from router_service.protocol import cluster_pb2 as pb
from router_service.protocol.balance import BalanceReport
from router_service.protocol.cluster_pb2_grpc import ClusterServicer
from router_service.protocol.messages import RouterReport, ShardReport

# Of the states that routers see, the better ones first.
STATES = ("ready", "suspect")
ShardDirectory = Callable[[], Sequence[ShardReport]]
BalanceSource = Callable[[], BalanceReport | None]


class ClusterService(ClusterServicer):
    """GetCluster, from the latest reports: it calls no other process.

    `directory` returns the shards that the control plane knows, with states of its own such as loading, and `balance`
    what its balancer does, None while it was not heard. Both are called on the event loop and must not block; for
    metrics `balance` is also called on the thread of a scrape.
    """

    def __init__(
        self,
        model: str,
        router_pool: RouterPool,
        directory: ShardDirectory | None,
        balance: BalanceSource | None = None,
    ) -> None:
        self._model = model
        self._router_pool = router_pool
        self._directory = directory
        self._balance = balance

    async def GetCluster(self, request: pb.GetClusterRequest, context: Context) -> pb.ClusterState:  # noqa: ARG002
        """Return the latest state."""
        state = pb.ClusterState(model=self._model)
        async with answering(context):
            known = self._directory() if self._directory is not None else ()
            state.shards.extend(merge_shards(self._router_pool.reports, known))
            state.routers.extend(
                router_state(link.report, link.outstanding)
                for link in self._router_pool.links
                if link.report is not None
            )
            if self._balance is not None and (report := self._balance()) is not None:
                state.balance.CopyFrom(balance_state(report))
        return state


def merge_shards(reports: Iterable[RouterReport], directory: Iterable[ShardReport]) -> list[pb.Shard]:
    """Return one entry for each (shard, replica): rates are summed over routers, times weighted by rows.

    A shard is ready if any router is connected to it and hears of it in time, suspect if only others are connected.
    Else it has the control plane's state, if any, or `unreachable`.
    """
    views = sorted((shard for report in reports for shard in report.shards), key=_identity)
    merged = {key: _merge(list(group)) for key, group in groupby(views, key=_identity)}
    for shard in directory:
        entry = merged.setdefault(_identity(shard), _merge([shard]))
        if entry.state != "ready":
            entry.state = shard.state
    shards = [merged[key] for key in sorted(merged)]
    _set_imbalance(shards)
    return shards


def router_state(report: RouterReport, outstanding: int) -> pb.Router:
    """Return a router's state from its report; `outstanding` counts this Front's streams on it."""
    state = pb.Router(
        router=report.router,
        running=report.running,
        waiting=report.waiting,
        kv_blocks_used=report.kv_blocks_used,
        kv_blocks_total=report.kv_blocks_total,
        decode_tokens_per_second=report.decode_tokens_per_second,
        outstanding=outstanding,
        ready=report.ready,
    )
    # Without a step the ratios are meaningless, and unset fields say so.
    if report.step_seconds:
        state.overhead_ratio = report.overhead_ratio
        state.shard_imbalance = report.shard_imbalance
        state.expert_imbalance = report.expert_imbalance
    return state


def _identity(shard: ShardReport) -> tuple[int, str]:
    return shard.shard, shard.replica


def _merge(views: list[ShardReport]) -> pb.Shard:
    best = min(views, key=lambda view: STATES.index(_state(view)) if _state(view) in STATES else len(STATES))
    copies = [view.copies for view in views if view.copies is not None]
    merged = pb.Shard(
        shard=best.shard,
        replica=best.replica,
        state=_state(best),
        node=best.node,
        pid=best.pid,
        experts=best.experts,
        weights_bytes=best.weights_bytes,
        rows_per_second=sum(view.rows_per_second for view in views),
        assignments_per_second=sum(view.assignments_per_second for view in views),
        last_error=next((view.last_error for view in views if view.last_error), ""),
        # As for the state, a shard counts if any router reaches it.
        copies=max(copies, default=None),
        epoch=max(view.epoch for view in views),
    )
    if busy := [view for view in views if view.phase_seconds]:
        merged.phase_seconds.CopyFrom(_mean_phases(busy))
    return merged


def _state(view: ShardReport) -> str:
    if view.state != "connected":
        return view.state
    return "suspect" if view.link == LinkState.SUSPECT else "ready"


def _mean_phases(views: list[ShardReport]) -> pb.PhaseSeconds:
    weights = [view.rows_per_second for view in views]
    # Idle shards have no rows to weigh by, and fmean refuses weights of 0.
    if not any(weights):
        weights = [1.0] * len(views)
    means = {phase.value: fmean((view.phase_seconds.get(phase, 0.0) for view in views), weights) for phase in PHASES}
    return pb.PhaseSeconds(**means)


def _set_imbalance(shards: list[pb.Shard]) -> None:
    """One that holds experts and is idle counts in the mean, one that holds none does not."""
    holding = [shard for shard in shards if shard.assignments_per_second or (shard.state in STATES and shard.experts)]
    for shard in holding:
        if shard.assignments_per_second:
            shard.imbalance = shard.assignments_per_second / fmean(other.assignments_per_second for other in holding)

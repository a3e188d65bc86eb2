"""A router's view of its shards, for the cluster's state."""

from experts.links.state import LinkState
from experts.timing.phase import PHASES
from experts.watch.connector import ShardConnection, ShardConnector
from router_service.metrics.failure_series import FailureGauges
from router_service.metrics.windows import WindowSums
from router_service.protocol.messages import ShardReport


def shard_reports(
    connector: ShardConnector, now: FailureGauges, recent: WindowSums, seconds: float
) -> list[ShardReport]:
    """One report per shard that is there; links and copies as they are `now`, rates over the window's
    `seconds`, phase times as means over its calls.
    """
    each = zip(connector.connections, now.links, now.copies, strict=True)
    there = now.among(range(len(now.links)))
    return [_report(shard, *of_shard, recent, seconds) for shard, of_shard in enumerate(each) if shard in there]


def _report(
    shard: int, connection: ShardConnection, link: LinkState, copies: int | None, recent: WindowSums, seconds: float
) -> ShardReport:
    endpoint, calls = connection.endpoint, max(1, int(recent.calls_S[shard]))
    means = (recent.phase_seconds_SP[shard] / calls).tolist()
    return ShardReport(
        shard=shard,
        replica=endpoint.replica if endpoint else "",
        state="connected" if link.usable else "unreachable",
        node=endpoint.node if endpoint else "",
        pid=endpoint.pid if endpoint else 0,
        experts=int(connection.status.get("experts", 0)),
        weights_bytes=int(connection.status.get("weights_bytes", 0)),
        rows_per_second=float(recent.rows_S[shard]) / max(seconds, 1e-9),
        assignments_per_second=float(recent.assignments_S[shard]) / max(seconds, 1e-9),
        phase_seconds=dict(zip(PHASES, means, strict=True)),
        last_error="" if link.usable else connection.error,
        link=link,
        copies=copies,
        epoch=int(connection.status.get("epoch", 0)),
    )

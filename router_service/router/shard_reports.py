"""A router's view of its shards, for the cluster's state."""

from collections.abc import Sequence

from experts.links.state import LinkState
from experts.phase import PHASES
from experts.watch.connector import ShardConnection, ShardConnector
from router_service.metrics.windows import WindowSums
from router_service.protocol.messages import ShardReport


def shard_reports(
    connector: ShardConnector, links: Sequence[LinkState], recent: WindowSums, seconds: float
) -> list[ShardReport]:
    """One report per shard; rates over the window's `seconds`, phase times as means over its calls."""
    connections = enumerate(connector.connections)
    return [_report(connector, shard, connection, links[shard], recent, seconds) for shard, connection in connections]


def _report(
    connector: ShardConnector,
    shard: int,
    connection: ShardConnection,
    link: LinkState,
    recent: WindowSums,
    seconds: float,
) -> ShardReport:
    available = connector.up(shard)
    endpoint, calls = connection.endpoint, max(1, int(recent.calls_S[shard]))
    means = (recent.phase_seconds_SP[shard] / calls).tolist()
    return ShardReport(
        shard=shard,
        replica=endpoint.replica if endpoint else "",
        state="connected" if available else "unreachable",
        node=endpoint.node if endpoint else "",
        pid=endpoint.pid if endpoint else 0,
        experts=int(connection.status.get("experts", 0)),
        weights_bytes=int(connection.status.get("weights_bytes", 0)),
        rows_per_second=float(recent.rows_S[shard]) / max(seconds, 1e-9),
        assignments_per_second=float(recent.assignments_S[shard]) / max(seconds, 1e-9),
        phase_seconds=dict(zip(PHASES, means, strict=True)),
        last_error="" if available else connection.error,
        link=link,
    )

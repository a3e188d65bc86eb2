"""A router's report of a shard."""

from experts.timing.phase import PHASES
from router_service.protocol.messages import ShardReport


def shard(
    index: int, state: str = "connected", rows: float = 10.0, phase: float | None = 0.25, **fields: object
) -> ShardReport:
    values = {
        "shard": index,
        "replica": f"s{index}",
        "state": state,
        "node": "n0",
        "pid": 40 + index,
        "experts": 16,
        "weights_bytes": 1 << 20,
        "rows_per_second": rows,
        "assignments_per_second": 2 * rows,
        "phase_seconds": {} if phase is None else dict.fromkeys(PHASES, phase),
    }
    return ShardReport(**(values | fields))  # type: ignore[arg-type]

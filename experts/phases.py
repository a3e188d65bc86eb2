"""What one layer's trip cost: the six phases of each call, and the engine's own wait.

    pack -> dispatch -> queue -> compute -> combine -> reduce

On one host router and shard read the same monotonic clock (CLOCK_MONOTONIC), so every difference is exact.
"""

from dataclasses import dataclass

from experts.grouping import ShardGroup
from experts.transport.base import Answer, Sent

PHASES = ("pack", "dispatch", "queue", "compute", "combine", "reduce")


@dataclass(frozen=True, slots=True)
class CallPhases:
    """One shard's call in one layer: nanoseconds by phase (in the order of `PHASES`), sizes, when it was answered."""

    shard: int
    phases_ns: tuple[int, int, int, int, int, int]
    rows: int
    assignments: int
    dispatch_bytes: int
    combine_bytes: int
    received_ns: int

    @property
    def compute_ns(self) -> int:
        """Nanoseconds of expert computation."""
        return self.phases_ns[3]

    @property
    def combine_ns(self) -> int:
        """Nanoseconds that the answer was under way."""
        return self.phases_ns[4]

    @classmethod
    def of(cls, started_ns: int, sent: Sent, answer: Answer, reduce_ns: int, group: ShardGroup) -> "CallPhases":
        """Split a call at its stamps. Packing lasts until this shard's own sending begins."""
        stamps = answer.partial.stamps
        return cls(
            shard=sent.shard,
            phases_ns=(
                sent.sent_ns - started_ns,
                stamps.received - sent.sent_ns,
                stamps.started - stamps.received,
                stamps.sent - stamps.started,
                answer.received_ns - stamps.sent,
                reduce_ns,
            ),
            rows=len(group.tokens_R),
            assignments=len(group.rows_A),
            dispatch_bytes=sent.wire_bytes,
            combine_bytes=answer.wire_bytes,
            received_ns=answer.received_ns,
        )


@dataclass(frozen=True, slots=True)
class LayerTrip:
    """One layer's calls and the engine's time: `pack_ns` grouping, `exposed_ns` waiting, `reduce_ns` adding.

    The engine began to wait at `waiting_ns` of its clock; before that it may have computed something of its own.
    """

    layer: int
    calls: tuple[CallPhases, ...]
    pack_ns: int
    exposed_ns: int
    reduce_ns: int
    waiting_ns: int

    @property
    def straggler_ns(self) -> float:
        """The slowest shard's answer minus the mean of the shards asked."""
        if not self.calls:
            return 0.0
        answered = [call.received_ns for call in self.calls]
        return max(answered) - sum(answered) / len(answered)

    @property
    def exposed_compute_ns(self) -> int:
        """The part of the wait that the last answer's computation explains; the rest of it is communication."""
        if not self.calls:
            return 0
        last = max(self.calls, key=lambda call: call.received_ns)
        computed_ns = last.received_ns - last.combine_ns
        return max(0, min(self.exposed_ns, last.compute_ns, computed_ns - self.waiting_ns))

"""What failures of shards have cost a router, in plain counters. Written by the engine's thread, read by any."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field

# Why rows were sent to another replica: the series of a reason begin at 0.
REASONS = ("eof", "timeout", "suspect", "checksum", "miss", "busy", "error", "drain")
MOST_PENDING = 4096
MOST_RECENT = 16


@dataclass(frozen=True, slots=True)
class Failover:
    """One layer completed by other replicas: when (seconds of the epoch), which shard failed, why, how long it took."""

    at: float
    shard: int
    reason: str
    seconds: float


@dataclass(slots=True)
class FailureRecord:
    """Everything only grows but `pending_seconds`, which its reader empties.

    Args:
        asks: calls sent, attempts after the first included.
        duplicates: calls sent for rows that another replica was still expected to answer (hedges).
        duplicates_won: hedges that answered first.
        failovers: calls that were repeated elsewhere, by reason.
        late_answers: answers that came when nobody waited for them any more; they are dropped.
        cancels: calls that were cancelled because another replica had answered.
        suspicions: how often a link became suspect; `forgiven`: how often one was found to live.
        pending_seconds: for each failover the time from the fault seen to the layer's answer complete.
        recent: the latest failovers, oldest first.
    """

    asks: int = 0
    duplicates: int = 0
    duplicates_won: int = 0
    late_answers: int = 0
    cancels: int = 0
    suspicions: int = 0
    forgiven: int = 0
    failovers: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    pending_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_PENDING))
    recent: deque[Failover] = field(default_factory=lambda: deque(maxlen=MOST_RECENT))

    def failed_over(self, reason: str, seconds: float, shard: int = -1) -> None:
        """Note a layer that was completed by other replicas `seconds` after the fault of `shard` was seen."""
        self.failovers[reason] += 1
        self.pending_seconds.append(seconds)
        self.recent.append(Failover(time.time(), shard, reason, seconds))

    def take_seconds(self) -> list[float]:
        """Remove and return `pending_seconds`."""
        return [self.pending_seconds.popleft() for _ in range(len(self.pending_seconds))]

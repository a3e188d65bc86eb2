"""Cumulative sums, and the window over the last minute as the difference of two snapshots of them.

S shards, L all layers, E experts, P phases.
"""

from collections import deque
from dataclasses import dataclass

from experts.balance import Counts, Floats
from router_service.metrics.shard_load import ShardLoad

WINDOW_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class WindowSums:
    """Sums since the start, or over a window as the difference of two of them; times in seconds.

    `load` is since the placement in use is, if that is shorter.
    """

    expert_tokens_LE: Counts
    load: ShardLoad
    rows_S: Counts
    assignments_S: Counts
    calls_S: Counts
    phase_seconds_SP: Floats
    decode_tokens: int = 0
    step_seconds: float = 0.0
    communication_seconds: float = 0.0

    def copy(self) -> "WindowSums":
        """A snapshot."""
        return WindowSums(
            expert_tokens_LE=self.expert_tokens_LE.copy(),
            load=self.load.copy(),
            rows_S=self.rows_S.copy(),
            assignments_S=self.assignments_S.copy(),
            calls_S=self.calls_S.copy(),
            phase_seconds_SP=self.phase_seconds_SP.copy(),
            decode_tokens=self.decode_tokens,
            step_seconds=self.step_seconds,
            communication_seconds=self.communication_seconds,
        )

    def minus(self, old: "WindowSums") -> "WindowSums":
        """The difference to an earlier snapshot, `old`."""
        return WindowSums(
            expert_tokens_LE=self.expert_tokens_LE - old.expert_tokens_LE,
            load=self.load.minus(old.load),
            rows_S=self.rows_S - old.rows_S,
            assignments_S=self.assignments_S - old.assignments_S,
            calls_S=self.calls_S - old.calls_S,
            phase_seconds_SP=self.phase_seconds_SP - old.phase_seconds_SP,
            decode_tokens=self.decode_tokens - old.decode_tokens,
            step_seconds=self.step_seconds - old.step_seconds,
            communication_seconds=self.communication_seconds - old.communication_seconds,
        )

    @property
    def overhead_ratio(self) -> float:
        """Communication's share of step time: the exposed wait that is not expert compute, plus pack and reduce."""
        return self.communication_seconds / self.step_seconds if self.step_seconds else 0.0


class Window:
    """The last minute, from snapshots taken about once a second."""

    def __init__(self, first: WindowSums, now: float) -> None:
        self._snapshots = deque([(now, first.copy())])

    @property
    def snapshots(self) -> int:
        """How many are kept."""
        return len(self._snapshots)

    def advance(self, cumulative: WindowSums, now: float) -> tuple[WindowSums, float]:
        """Take a snapshot; return the sums within the window and the window's length in seconds."""
        # The oldest snapshot is kept until the second is out of the window too, so that the window covers the whole
        # minute.
        while len(self._snapshots) > 1 and now - self._snapshots[1][0] > WINDOW_SECONDS:
            self._snapshots.popleft()
        current = cumulative.copy()
        self._snapshots.append((now, current))
        since, old = self._snapshots[0]
        return current.minus(old), now - since

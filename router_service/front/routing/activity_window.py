"""One router's activity over the last seconds, from what it sends while it is watched.

L MoE layers, E experts.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from router_service.protocol.messages import Activity, StepTimes

WINDOW_SECONDS = 10.0
SHOWN_STEPS = 60


@dataclass(slots=True)
class ActivityWindow:
    """Activities received within the last ten seconds, and the latest steps. `now` is in the event loop's seconds."""

    activities: "deque[tuple[float, Activity]]" = field(default_factory=deque)
    steps: "deque[StepTimes]" = field(default_factory=lambda: deque(maxlen=SHOWN_STEPS))
    step_count: int = 0

    def add(self, activity: Activity, now: float) -> None:
        """Add a received activity."""
        self.activities.append((now, activity))
        self.steps.extend(activity.steps)
        self.step_count += activity.step_count
        self.prune(now)

    def prune(self, now: float) -> None:
        """Drop activities older than the window."""
        while self.activities and now - self.activities[0][0] > WINDOW_SECONDS:
            self.activities.popleft()

    @property
    def seconds(self) -> float:
        """Total duration of the activities in seconds."""
        return sum(activity.seconds for _, activity in self.activities)

    def expert_tokens(self) -> NDArray[np.int64]:
        """The (token, expert) pairs of the window, [L, E]. There must be at least one activity."""
        shape = len(self.activities[-1][1].layers), len(self.activities[-1][1].holders)
        total_LE = np.zeros(shape, dtype=np.int64)
        for _, activity in self.activities:
            total_LE += np.frombuffer(activity.expert_tokens, dtype="<u4").reshape(shape)
        return total_LE

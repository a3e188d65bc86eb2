"""What a router does at the moment, sent twice a second to the Fronts that have a live page open.

While no Front watches, a step costs one more test of a flag and the thread here sleeps. S shards, L all layers,
E experts.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from experts.host.watched_thread import ThreadWatch
from experts.placement import LayerPlacement, Placement
from experts.timing.phase import PHASES
from router_service.engine.step.stage import STAGES, Stage
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.metrics.windows import WindowSums
from router_service.protocol.messages import Activity, ShardActivity, StepTimes

log = logging.getLogger(__name__)

ACTIVITY_SECONDS = 0.5
# A watch ends unless it is renewed, so a Front that forgets to end it costs the engine nothing for long.
MAX_WATCH_SECONDS = 60.0
LATEST_STEPS = 64


class ActivityMonitor:
    """Collects while a Front watches, and calls `send(front, activity)` with the activity since the last call."""

    def __init__(
        self,
        *,
        router: str,
        statistics: Statistics,
        moe_layers: Sequence[int],
        placement: Callable[[], Placement],
        send: Callable[[int, Activity], None],
        threads: ThreadWatch | None = None,
    ) -> None:
        self._router = router
        self._statistics = statistics
        self._layers = list(moe_layers)
        self._placement = placement
        self._send = send
        # Written by every Front's thread and read by this class's own.
        self._until: dict[int, float] = {}
        self._lock = threading.Lock()
        self._watched = threading.Event()
        self._closing = threading.Event()
        self._steps: deque[StepTimes] = deque(maxlen=LATEST_STEPS)
        self._step_count = 0
        self._thread = (threads or ThreadWatch()).start("activity", self._run, lasts_until=self._closing.is_set)

    def watch(self, front: int, seconds: float) -> None:
        """Send to `front` for `seconds` from now, at most a minute; 0 ends it."""
        with self._lock:
            self._until[front] = time.monotonic() + min(seconds, MAX_WATCH_SECONDS)
        self._watched.set()

    def forget(self, front: int) -> None:
        """Stop sending to a Front that has disconnected."""
        with self._lock:
            self._until.pop(front, None)

    def observe(self, step: StepRecord) -> None:
        """Keep a step's times if a Front watches. Called on the engine's thread."""
        if not self._watched.is_set():
            return
        stages = dict(step.trace.stages_ns)
        stages[Stage.OTHER] += step.duration_ns - sum(stages.values())
        seconds = [stages[stage] / 1e9 for stage in STAGES]
        tokens = step.prompt_tokens + step.decode_tokens
        self._step_count += 1
        self._steps.append(StepTimes(kind=step.kind, tokens=tokens, seconds=step.duration_ns / 1e9, stages=seconds))

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._watched.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._watched.wait()
            try:
                self._serve_watchers()
            except Exception:
                # Then a pause: a fault that repeats must neither spin nor fill the log.
                log.exception("the live page's figures cannot be sent, the next watch begins anew")
                self._closing.wait(ACTIVITY_SECONDS)

    def _serve_watchers(self) -> None:
        """Send until no Front watches any more."""
        old, since = self._snapshot(), time.monotonic()
        while not self._closing.wait(ACTIVITY_SECONDS):
            if not (watchers := self._watchers()):
                return
            new, now = self._snapshot(), time.monotonic()
            activity = self._activity(old, new, now - since)
            old, since = new, now
            for front in watchers:
                self._send(front, activity)

    def _watchers(self) -> list[int]:
        now = time.monotonic()
        with self._lock:
            self._until = {front: until for front, until in self._until.items() if until > now}
            if not self._until:
                # Under the lock, or a watch that begins now would be set before it is cleared.
                self._watched.clear()
            return list(self._until)

    def _snapshot(self) -> tuple[WindowSums, list[float], int]:
        self._statistics.flush()
        stages = self._statistics.stage_seconds
        return self._statistics.cumulative.copy(), [stages[stage] for stage in STAGES], self._step_count

    def _activity(
        self, old: tuple[WindowSums, list[float], int], new: tuple[WindowSums, list[float], int], seconds: float
    ) -> Activity:
        recent = new[0].minus(old[0])
        steps = new[2] - old[2]
        # One at a time: the engine's thread may append meanwhile, and deque operations are atomic.
        latest = [self._steps.popleft() for _ in range(len(self._steps))]
        placement = self._placement()
        return Activity(
            router=self._router,
            seconds=seconds,
            layers=self._layers,
            holders=_holders(placement.everywhere),
            special=_special(placement, self._layers),
            epoch=placement.epoch,
            expert_tokens=recent.expert_tokens_LE[self._layers].astype("<u4").tobytes(),
            shards=_shards(recent, self._statistics.known_shards),
            stages=list(STAGES),
            stage_seconds=[after - before for before, after in zip(old[1], new[1], strict=True)],
            step_count=steps,
            steps=latest,
        )


def _holders(layer: LayerPlacement) -> list[list[int]]:
    return [list(shards) for shards in layer.holders]


def _special(placement: Placement, layers: Sequence[int]) -> dict[int, list[list[int]]]:
    """The MoE layers that differ: a message has but one list where all are alike."""
    own = {layer: placement.layer(layer) for layer in layers}
    return {layer: _holders(placed) for layer, placed in own.items() if placed != placement.everywhere}


def _shards(recent: WindowSums, known: Sequence[int]) -> list[ShardActivity]:
    return [
        ShardActivity(
            shard=shard,
            rows=int(recent.rows_S[shard]),
            calls=int(recent.calls_S[shard]),
            phase_seconds=dict(zip(PHASES, recent.phase_seconds_SP[shard].tolist(), strict=True)),
        )
        for shard in known
    ]

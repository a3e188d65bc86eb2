"""Charges a step's time to its stages."""

import time

import torch

from experts.timing.phases import LayerTrip
from router_service.engine.step.stage import Stage


class Stopwatch:
    """Charges the time since the last mark to a stage. On a GPU it synchronizes first: kernels run asynchronously.

    The batches of a step share one, so that each moment is charged once.
    """

    def __init__(self, stages_ns: dict[Stage, int], device: torch.device) -> None:
        self._stages_ns = stages_ns
        self._device = device
        self._synchronizes = device.type == "cuda"
        self._last_ns = time.monotonic_ns()

    def mark(self, stage: Stage) -> None:
        """Charge the time since the last mark to `stage`."""
        if self._synchronizes:
            torch.cuda.synchronize(self._device)
        now = time.monotonic_ns()
        self._stages_ns[stage] += now - self._last_ns
        self._last_ns = now

    def mark_trip(self, trip: LayerTrip) -> None:
        """Split the time of a trip's combine as the trip measured it; the rest counts as packing."""
        now = time.monotonic_ns()
        self._stages_ns[Stage.WAIT] += trip.exposed_ns
        self._stages_ns[Stage.REDUCE] += trip.reduce_ns
        self._stages_ns[Stage.PACK] += now - self._last_ns - trip.exposed_ns - trip.reduce_ns
        self._last_ns = now

"""How fast this device copies and multiplies, and how long work on it takes.

A figure is a median of calls with a cold cache. On a GPU a call is recorded into a CUDA graph where that works: the
device's time counts, not the host's way to it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.benchmarks.gpu_check.part import Budget, Setting

Call = Callable[[], object]
ROUNDS = 7
# More than any cache of today holds.
SWEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Limits:
    """Bytes read and written a second by a large copy, and operations a second of a large product in bfloat16."""

    copied: float
    dense: float

    def line(self) -> str:
        """For the reader."""
        return f"limits of this run: copy {self.copied / 1e9:.0f} GB/s, dense bf16 {self.dense / 1e12:.1f} TFLOP/s"


def measure(setting: Setting, timer: Timer) -> Limits:
    """Both limits, the best of the rounds."""
    size, side = (1 << 16, 64) if setting.small else (min(2 << 30, _free(setting.device) // 4), 8192)
    source = torch.zeros(size, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    copy_s = min(timer.seconds({"copy": lambda: target.copy_(source)})["copy"])
    a, b = (torch.randn(side, side, device=setting.device).bfloat16() for _ in range(2))
    dense_s = min(timer.seconds({"dense": lambda: a @ b})["dense"])
    return Limits(2 * size / copy_s, 2 * side**3 / dense_s)


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 30


class Timer:
    """Times calls in turn within each round, so that a clock that changes hits all of them.

    `unrecorded` are names of calls that no graph could hold, whose times are those of their launches, too.
    """

    def __init__(self, setting: Setting, budget: Budget) -> None:
        self._device, self._budget = setting.device, budget
        self.unrecorded: set[str] = set()
        self._rounds = 1 if setting.small else ROUNDS
        self._cuda = setting.device.type == "cuda"
        self._swept = torch.zeros(SWEPT_BYTES if self._cuda else 8, dtype=torch.uint8, device=setting.device)

    def seconds(self, calls: dict[str, Call]) -> dict[str, list[float]]:
        """Seconds of each call in each round; at least one, and no more once the budget is spent."""
        ready = {name: self._recorded(name, call) for name, call in calls.items()}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for done in range(self._rounds):
            if done and self._budget.spent():
                break
            for name, call in ready.items():
                taken[name].append(self._once(call))
        return taken

    def medians(self, calls: dict[str, Call]) -> dict[str, float]:
        """The median of each."""
        return {name: statistics.median(times) for name, times in self.seconds(calls).items()}

    def _recorded(self, name: str, call: Call) -> Call:
        """The call as a graph; as it is where something in it cannot be recorded."""
        call()  # compiles, and allocates what stays
        if not self._cuda:
            return call
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            torch.cuda.synchronize()
            self.unrecorded.add(name)
            return call
        return graph.replay

    def _once(self, call: Call) -> float:
        self._swept.add_(1)
        if not self._cuda:
            begun = time.perf_counter()
            call()
            return time.perf_counter() - begun
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

"""What a router has routed since its last report, for the control plane: counts, and a sample of whole steps.

L layers, E experts, T tokens, K experts per token.
"""

import heapq
import threading
from collections.abc import Callable
from itertools import count

import numpy as np

from experts.costs import ShardCosts
from experts.demand import Demand, RoutedBatch, RoutedLoad
from experts.routing import Routing
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics

Steps = list[list[tuple[int, Routing]]]
Modelled = tuple[float, float, float]
NOTHING: Modelled = (0, 0.0, 0.0)

# A report travels to the registry and, with those of a minute, to the balancer.
MOST_STEPS = 16
MOST_BYTES = 256 << 10
# A step of more touches the same experts with each part of it: its first tokens stand for all.
MOST_TOKENS = 512
# Knuth's multiplicative hash (2^32 over the golden ratio): numbers in a row are spread evenly, so steps of a pattern,
# such as every second one with a prompt, are sampled alike.
SPREAD = 2654435761


class LoadSampler:
    """Samples steps evenly over the time between two reports: those whose numbers have the lowest hashes.

    Args:
        statistics: whose counts of experts are reported.
        router: the router's id.
        epoch: of the placement by which it asks.
        layers: the model's numbers of its MoE layers.
        clock: in seconds.
        modelled: the sums so far of layer calls, and of the modelled microseconds of their slowest and mean shards.
        costs: of the shards, as this router has measured them.
        suspect: shards that it cannot rely on now.
    """

    def __init__(
        self,
        *,
        statistics: Statistics,
        router: str,
        epoch: Callable[[], int],
        layers: tuple[int, ...],
        clock: Callable[[], float],
        modelled: Callable[[], Modelled] = lambda: NOTHING,
        costs: Callable[[], ShardCosts | None] = lambda: None,
        suspect: Callable[[], tuple[int, ...]] = tuple,
    ) -> None:
        self._statistics = statistics
        self._router = router
        self._epoch = epoch
        self._layers = layers
        self._clock = clock
        self._modelled = modelled
        self._costs = costs
        self._suspect = suspect
        self._sample: list[tuple[int, int, list[tuple[int, Routing]]]] = []
        self._numbers = count()
        self._lock = threading.Lock()
        self._counted_LE = statistics.cumulative.expert_tokens_LE.copy()
        self._since, self._asked_by, self._sums = clock(), epoch(), modelled()

    def observe(self, step: StepRecord) -> None:
        """Look at a step, on the engine's thread: of the steps that are sampled only references are kept."""
        number = next(self._numbers)
        rank = -(number * SPREAD & 0xFFFFFFFF)  # a heap has its lowest in front: the one to be replaced
        sample = self._sample
        if len(sample) == MOST_STEPS and rank < sample[0][0]:
            return
        with self._lock:
            if len(self._sample) < MOST_STEPS:
                heapq.heappush(self._sample, (rank, number, step.trace.routings))
            else:
                heapq.heappushpop(self._sample, (rank, number, step.trace.routings))

    def take(self) -> RoutedLoad | None:
        """What was routed since the last call; None if nothing was. Any thread, but one at a time."""
        now, epoch = self._clock(), self._epoch()
        with self._lock:
            sample, self._sample = self._sample, []
        self._statistics.flush()
        counted_LE = self._statistics.cumulative.expert_tokens_LE.copy()
        tokens_LE = (counted_LE - self._counted_LE)[list(self._layers)]
        seconds, asked_by, sums = now - self._since, self._asked_by, self._modelled()
        calls, slowest_us, mean_us = (new - old for new, old in zip(sums, self._sums, strict=True))
        self._counted_LE, self._since, self._asked_by, self._sums = counted_LE, now, epoch, sums
        if not tokens_LE.any():
            return None
        batches = self._batches([routings for _, _, routings in sorted(sample, key=lambda one: -one[0])])
        demand = Demand(self._layers, tokens_LE, seconds, batches)
        return RoutedLoad(
            self._router,
            asked_by,
            demand,
            calls=int(calls),
            slowest_us=slowest_us,
            mean_us=mean_us,
            costs=self._costs(),
            suspect=self._suspect(),
        )

    def _batches(self, steps: Steps) -> tuple[RoutedBatch, ...]:
        """As many of the steps as a report may hold, but one at least; steps that did not reach all layers are out."""
        batches: list[RoutedBatch] = []
        room = MOST_BYTES
        for routings in steps:
            if tuple(layer for layer, _ in routings) != self._layers:
                continue
            ids_LTK = np.stack([one.expert_ids_TK[:MOST_TOKENS] for _, one in routings]).astype(np.int16)
            if ids_LTK.nbytes > room and batches:
                continue
            room -= ids_LTK.nbytes
            batches.append(RoutedBatch(ids_LTK))
        return tuple(batches)

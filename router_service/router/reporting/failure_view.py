"""How failures and copies look from a router: for its metrics and its reports."""

import threading

import numpy as np

from experts.links.record import Failover
from experts.placement import LayerPlacement, Placement
from experts.watch.connector import ShardConnector
from router_service.engine.engine import Engine
from router_service.metrics.failure_series import FAILOVER_SECONDS, FailureGauges
from router_service.metrics.histogram import HistogramArray
from router_service.protocol.messages import FailoverReport


class FailureView:
    """Reads what the pool and the connector know of failures. Any thread may ask."""

    def __init__(self, engine: Engine, connector: ShardConnector) -> None:
        self._engine = engine
        self._connector = connector
        self._seconds = HistogramArray(FAILOVER_SECONDS, 1)
        # Two readers at once would both take the same seconds off the record.
        self._lock = threading.Lock()

    def gauges(self) -> FailureGauges:
        """Everything until now."""
        placement, connector = self._engine.pool.placement, self._connector
        usable = [connector.up(shard) for shard in range(placement.shards)]
        self._take_seconds()
        return FailureGauges(
            record=self._engine.pool.record,
            seconds=self._seconds,
            fallback_tokens=dict(self._engine.fallback_tokens),
            links=tuple(connector.states),
            copies=living_copies(placement, usable),
            there=connector.there,
            unavailable=unavailable_experts(placement, usable),
            epoch=placement.epoch,
        )

    def recent(self) -> list[FailoverReport]:
        """The latest failovers, oldest first."""
        return [_report(failover) for failover in self._engine.pool.record.recent.copy()]

    def _take_seconds(self) -> None:
        with self._lock:
            taken = np.array(self._engine.pool.record.take_seconds())
            if len(taken):
                self._seconds.observe(np.zeros(len(taken), dtype=np.int64), taken)


def living_copies(placement: Placement, usable: list[bool]) -> tuple[int | None, ...]:
    """For each shard the least number of usable shards that hold an expert of its own, None if it holds none."""
    fewest: dict[int, int] = {}
    for layer in _layers(placement):
        for holders in layer.blocks:
            living = sum(usable[shard] for shard in holders)
            for shard in holders:
                fewest[shard] = min(living, fewest.get(shard, living))
    return tuple(fewest.get(shard) for shard in range(placement.shards))


def unavailable_experts(placement: Placement, usable: list[bool]) -> int:
    """How many experts have no usable holder: of the layer with the most."""
    return max(_unavailable(layer, usable) for layer in _layers(placement))


def reaches_all(placement: Placement, connector: ShardConnector) -> bool:
    """Whether every expert has a holder that can be asked."""
    usable = [connector.up(shard) for shard in range(placement.shards)]
    return all(usable) or not unavailable_experts(placement, usable)


def _unavailable(layer: LayerPlacement, usable: list[bool]) -> int:
    gone_B = np.array([not any(usable[shard] for shard in holders) for holders in layer.blocks])
    return int(gone_B[layer.block_of_E].sum())


def _layers(placement: Placement) -> list[LayerPlacement]:
    return [placement.everywhere, *placement.special.values()]


def _report(failover: Failover) -> FailoverReport:
    return FailoverReport(failover.at, failover.shard, failover.reason, failover.seconds)

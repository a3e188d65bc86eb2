"""Requests that wait for unavailable shards, and continue when those are back."""

from collections.abc import Sequence

from experts.pool import ExpertPool
from experts.transport.base import ShardUnavailable
from router_service.engine.guard import Guard
from router_service.engine.request import Request
from router_service.engine.request_table import RequestTable
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.stall_log import log_back, log_lost


class Stalls:
    """Tracks the missing shards, and stalls the sequences that wait for them."""

    def __init__(self, pool: ExpertPool, scheduler: Scheduler, guard: Guard) -> None:
        self._pool = pool
        self._scheduler = scheduler
        self._guard = guard
        self._missing: set[int] = set()

    def begin(self, requests: Sequence[Request], failures: dict[int, ShardUnavailable], now: float) -> None:
        """Stall the requests that lost tokens in this step because of the shards in `failures`."""
        reason = "; ".join(str(failure) for failure in failures.values())
        if new := {shard: failures[shard] for shard in failures.keys() - self._missing}:
            with self._guard("stall_log"):
                log_lost(self._pool.step, new, list(requests))
        self._missing |= failures.keys()
        for request in requests:
            self._scheduler.stall(request.key)
            # The first loss counts: losing the same shard again must not extend the wait.
            request.stalled_since, request.stalled_by = request.stalled_since or now, reason

    def resume(self, requests: RequestTable) -> None:
        """Resume all requests once every expert can be asked of some shard again."""
        # Every one: a request that resumed with one still missing would only stall again.
        if self._missing and self._pool.reachable():
            with self._guard("stall_log"):
                log_back(self._missing, requests.alive())
            self._missing.clear()
            self._scheduler.resume()

"""A router's reports of what it routes, to the registry: the balancer's input."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import ray

from cluster.balance.config import BalanceConfig
from cluster.balance.judging.decision import LONG
from cluster.processes import ray_calls
from cluster.processes.ray_calls import RayTimeoutError
from experts.demand import RoutedLoad
from experts.host.watched_thread import ThreadWatch

log = logging.getLogger(__name__)


class LoadReporter:
    """Reports what `take` returns twice in each interval of the balancer, on a thread of its own, until `close`.

    What a registry that does not answer misses is lost: the balancer then decides by less.
    """

    def __init__(
        self, registry: Any, take: Callable[[], RoutedLoad | None], config: BalanceConfig, threads: ThreadWatch
    ) -> None:
        self._registry = registry
        self._take = take
        self._seconds = config.interval_seconds / 2
        self._keep_s = LONG * config.window_seconds + config.interval_seconds
        self._closing = threading.Event()
        self._thread = threads.start("load reporter", self._run, lasts_until=self._closing.is_set)

    def close(self) -> None:
        """Report no more."""
        self._closing.set()
        self._thread.join(timeout=ray_calls.CALL_SECONDS)

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            if (load := self._take()) is not None:
                self._report(load)

    def _report(self, load: RoutedLoad) -> None:
        try:
            ray_calls.get(self._registry.note_load.remote(load, self._keep_s), "the registry to note our load")
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            log.warning("could not report what was routed: %s", error)

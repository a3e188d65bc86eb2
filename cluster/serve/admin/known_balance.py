"""The balancer's report as this process last heard it: nobody waits for it."""

import contextlib
from typing import Any

import msgspec
import ray

from cluster.balance.config import BalanceConfig
from cluster.processes.known_processes import ASK_SECONDS
from cluster.processes.ray_calls import RayTimeoutError, await_ref
from router_service.protocol.balance import BalanceReport


class KnownBalance:
    """Asks `registry`; its last report stays while it does not answer, or was restarted and has none.

    What is configured is added from `config`: by that readers can tell what is late.
    """

    def __init__(self, registry: Any, config: BalanceConfig) -> None:
        self._registry = registry
        self._config = config
        self._report: BalanceReport | None = None

    def report(self) -> BalanceReport | None:
        """The report, None before the first one."""
        return self._report

    async def ask(self) -> None:
        """Wait for at most a second. `KnownProcesses`, which asks as often, logs a registry that is silent."""
        with contextlib.suppress(RayTimeoutError, ray.exceptions.RayError):
            found: BalanceReport | None = await await_ref(
                self._registry.balance_report.remote(), "the balancer's report", ASK_SECONDS
            )
            if found is not None:
                config = self._config
                self._report = msgspec.structs.replace(
                    found, interval=config.interval_seconds, prepare_seconds=config.prepare_seconds
                )

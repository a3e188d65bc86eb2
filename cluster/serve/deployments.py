"""Processes as Serve deployments: what all replicas share at start and shutdown."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray import serve

from cluster.config import ClusterConfig, ControlPlaneConfig
from cluster.planner.config_resolver import check_process
from cluster.planner.model import ServedModel, open_model
from cluster.processes.registered_process import RegisteredProcess
from cluster.processes.service_registry import DrainOrder

log = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
# Serve takes a replica for dead that does not answer three checks in a row: 4.2 to 4.4 s after one hangs (SIGSTOP).
# Measured on 2 cores with 20 busy processes beside 16 streams: in 45 s no check took so long.
HEALTH_SECONDS = 1.2
# Orders reach processes within a second: those that serve others wait a little longer than these do.
ORDER_SECONDS = 2.0


def open_to_load(config: ClusterConfig, role: str) -> ServedModel:
    """The model, after a check that this process's part fits: only here is the memory of its node known.

    Raises:
        DoesNotFitError: it does not; on a machine of our own the launcher has looked at all processes together.
    """
    model = open_model(config.model, config.weights)
    if config.cluster.address:
        check_process(config, model, role)
    return model


async def end(process: RegisteredProcess, check_health: Callable[[], None], config: ControlPlaneConfig) -> None:
    """Drain before the end, unless something is wrong here and nobody can be waited for; then withdraw."""
    try:
        check_health()
        order = DrainOrder(config.drain_seconds, config.drain_notice_seconds)
        await asyncio.to_thread(process.drain, order)
    except RuntimeError as error:  # from `check_health`: a hung process would never finish its drain
        log.warning("no drain before the end: %s", error)
    await asyncio.to_thread(process.close)


def deploy(replica: type, config: ControlPlaneConfig, **options: Any) -> Any:
    """A Serve deployment whose health is checked once a second, and which may drain before it ends."""
    drain_s = config.drain_notice_seconds + config.drain_seconds
    return serve.deployment(
        health_check_period_s=1.0,  # Serve notices a dead actor only here; its default is ten seconds
        health_check_timeout_s=HEALTH_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=drain_s + 2 * ORDER_SECONDS + CLOSE_SECONDS,
        **options,
    )(replica)

"""The life of a cluster as its starter sees it: Ray up, application up, ready, drained, down."""

import sys
import time
from typing import Any, TextIO

import ray
from ray import serve

from cluster.config import ClusterConfig
from cluster.planner.config_resolver import resolve_here
from cluster.planner.memory_plan import DoesNotFitError
from cluster.planner.model import open_model
from cluster.processes.draining import NotDrainedError, drain
from cluster.processes.ray_calls import SERVE_SECONDS, START_SECONDS, RayTimeoutError, call, leave
from cluster.processes.service_registry import DrainOrder, known_registry, remove_registry
from cluster.processes.signals import Interrupts, sigterm_held
from cluster.serve.application import build_app, resolved
from cluster.serve.application_watch import ApplicationWatch
from cluster.serve.ray_start import StartError, start_ray

POLL_SECONDS = 0.25


class Launcher:
    """Starts the cluster of `config`, on a Ray of its own or a running one. A context manager: leaving it stops all."""

    def __init__(self, config: ClusterConfig, progress: TextIO = sys.stderr) -> None:
        self._config = config
        self._progress = progress
        self._watch = ApplicationWatch(config.cluster, progress)
        self._deployed = False

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    def up(self, interrupts: Interrupts) -> dict[str, Any] | None:
        """Start everything and wait until it serves; return the Front's status, None if a signal came first.

        Raises:
            StartError: the model does not fit, Ray cannot be reached, the application fails, or is not ready in time;
                or an application of its name is on the Ray that is joined.
            RayTimeoutError: Ray does not answer.
        """
        self._resolve()
        with sigterm_held():
            start_ray(self._config)
            interrupts.listen()
        if self._config.cluster.address:
            self._watch.refuse_if_taken()
        call(lambda: serve.start(proxy_location="Disabled"), "Serve to start", START_SECONDS)
        if interrupts():  # starting Ray takes seconds, and what is deployed takes more of them to end
            return None
        self._deploy(self._target())
        return self._wait(interrupts)

    def drain(self) -> None:
        """Turn health to NOT_SERVING and let streams in flight end, within the configured time."""
        config = self._config.cluster
        order = DrainOrder(config.drain_seconds, config.drain_notice_seconds)
        try:
            drain(known_registry(config.application), order, lambda one: one.role == "front")
        except (NotDrainedError, RayTimeoutError, ValueError, ray.exceptions.RayError) as error:
            self._print_error(error)

    def down(self) -> None:
        """Take down the application that was deployed here; a Ray that we started goes down with it."""
        if not ray.is_initialized():
            return
        try:
            if self._config.cluster.address and self._deployed:
                self._delete()
        except RayTimeoutError as error:
            self._print_error(error)
        finally:
            self._leave()

    def _resolve(self) -> None:
        """Resolve `weights.resident` for this machine; of a Ray that is joined nothing is known yet."""
        if self._config.weights.resident == "auto" and not self._config.cluster.address:
            try:
                self._config = resolve_here(self._config, open_model(self._config.model, self._config.weights))
            except DoesNotFitError as error:
                raise StartError(str(error)) from error

    def _target(self) -> serve.RunTarget:
        """What to deploy. On a Ray that is joined the Front runs on this node, where its address was checked."""
        joined = bool(self._config.cluster.address)
        node = str(ray.util.get_node_ip_address()) if joined else ""
        config = resolved(self._config) if joined else self._config
        return serve.RunTarget(build_app(config, node), name=config.cluster.application, route_prefix=None)

    def _deploy(self, target: serve.RunTarget) -> None:
        self._deployed = True  # set first: Serve may have taken the application even if no reply comes
        now = {"wait_for_ingress_deployment_creation": False, "wait_for_applications_running": False}
        call(lambda: serve.run_many([target], **now), "Serve to take the application", SERVE_SECONDS)

    def _wait(self, interrupts: Interrupts) -> dict[str, Any] | None:
        limit = self._config.cluster.ready_timeout_seconds
        deadline = time.monotonic() + limit
        while not interrupts():
            status = self._watch.status()
            if status is not None and status["routers"] >= self._config.cluster.routers:
                return status
            if time.monotonic() > deadline:
                raise StartError(f"not ready after {limit:.0f} s: {self._watch.summary()}")
            time.sleep(POLL_SECONDS)
        return None

    def _delete(self) -> None:
        config = self._config.cluster
        # Serve drains the replicas before it ends them, so the call takes as long as they may.
        seconds = SERVE_SECONDS + config.drain_notice_seconds + config.drain_seconds
        call(lambda: serve.delete(config.application), f"{config.application} to end", seconds)
        remove_registry(config.application)

    def _leave(self) -> None:
        try:
            leave()
        except RayTimeoutError as error:
            self._print_error(error)

    def _print_error(self, error: Exception) -> None:
        print(f"expertmesh: {' '.join(str(error).split())}", file=self._progress, flush=True)

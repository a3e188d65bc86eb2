"""A cluster's life as seen by who starts it: Ray up, application up, ready, drained, down."""

import functools
import logging
import os
import sys
import time
from typing import Any, TextIO

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from cluster.config import ClusterConfig
from cluster.planner.config_resolver import settle_here
from cluster.planner.memory_plan import DoesNotFitError, refusal_in
from cluster.planner.model import open_model
from cluster.processes.draining import NotDrainedError, drain
from cluster.processes.process import environment, ray_settings
from cluster.processes.ray_calls import SERVE_SECONDS, START_SECONDS, RayTimeoutError, call, leave
from cluster.processes.service_registry import Announcement, DrainOrder, known_directory, remove_directory
from cluster.processes.signals import Interrupts, sigterm_held
from cluster.serve.application import build_app, settled
from cluster.table import size

POLL_SECONDS = 0.25
CALL_SECONDS = 30.0


class StartError(RuntimeError):
    """The cluster did not come up; the message says what Serve or Ray says."""


class Launcher:
    """Starts the cluster of `config`, on a Ray of its own or a running one. As a context manager it takes all down."""

    def __init__(self, config: ClusterConfig, progress: TextIO = sys.stderr) -> None:
        self._config = config
        self._progress = progress
        self._front: Any = None
        self._deployed = False
        self._lines: dict[tuple[str, int], str] = {}

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    def up(self, interrupts: Interrupts) -> dict[str, Any] | None:
        """Start everything and wait until it serves; return the Front's status, None if a signal came first.

        Raises:
            StartError: the model does not fit, Ray cannot be reached, the application fails, or is not ready in time;
                or one of its name is on the Ray that is joined.
            RayTimeoutError: Ray does not answer.
        """
        self._settle()
        with sigterm_held():
            self._start_ray()
            interrupts.listen()
        application = self._config.cluster.application
        joined = bool(self._config.cluster.address)
        if joined:
            self._refuse_taken(application)
        call(lambda: serve.start(proxy_location="Disabled"), "Serve to start", START_SECONDS)
        here = str(ray.util.get_node_ip_address()) if joined else ""
        config = settled(self._config) if joined else self._config
        target = serve.RunTarget(build_app(config, here), name=application, route_prefix=None)
        self._deploy(target)
        deadline = time.monotonic() + self._config.cluster.ready_timeout_seconds
        while not interrupts():
            status = self._look(application)
            if status is not None and status["routers"] >= self._config.cluster.routers:
                return status
            if time.monotonic() > deadline:
                raise StartError(
                    f"not ready after {self._config.cluster.ready_timeout_seconds:.0f} s: {self._states()}"
                )
            time.sleep(POLL_SECONDS)
        return None

    def _refuse_taken(self, application: str) -> None:
        """Deploying under a name that is taken would replace what runs, and take its streams down."""
        there = call(serve.status, "the status of its applications", SERVE_SECONDS).applications.get(application)
        if there is not None:
            raise StartError(
                f"an application {application} is on the Ray at {self._config.cluster.address} already "
                f"({there.status.value}): give this one another --name, or end that one first"
            )

    def _deploy(self, target: serve.RunTarget) -> None:
        self._deployed = True  # even if no answer comes
        now = {"wait_for_ingress_deployment_creation": False, "wait_for_applications_running": False}
        call(lambda: serve.run_many([target], **now), "Serve to take the application", SERVE_SECONDS)

    def drain(self) -> None:
        """Health turns NOT_SERVING, streams in flight end, within the configured time."""
        config = self._config.cluster
        order = DrainOrder(config.drain_seconds, config.drain_notice_seconds)
        try:
            drain(known_directory(config.application), order, lambda one: one.role == "front")
        except (NotDrainedError, RayTimeoutError, ValueError, ray.exceptions.RayError) as error:
            self._say(error)

    def down(self) -> None:
        """Take down the application that was deployed here; a Ray that we started goes down whole."""
        if not ray.is_initialized():
            return
        try:
            if self._config.cluster.address and self._deployed:
                self._delete()
        except RayTimeoutError as error:
            self._say(error)
        finally:
            self._leave()

    def _delete(self) -> None:
        config = self._config.cluster
        seconds = SERVE_SECONDS + config.drain_notice_seconds + config.drain_seconds
        call(lambda: serve.delete(config.application), f"{config.application} to end", seconds)
        remove_directory(config.application)

    def _leave(self) -> None:
        try:
            leave()
        except RayTimeoutError as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        print(f"expertmesh: {' '.join(str(error).split())}", file=self._progress, flush=True)

    def _settle(self) -> None:
        """Resolve `weights.resident` for this machine; of a Ray that is joined nothing is known yet."""
        if self._config.weights.resident == "auto" and not self._config.cluster.address:
            try:
                self._config = settle_here(self._config, open_model(self._config.model, self._config.weights))
            except DoesNotFitError as error:
                raise StartError(str(error)) from error

    def _start_ray(self) -> None:
        os.environ.update(environment())
        if not self._config.cluster.address:
            os.environ.update(ray_settings(os.environ))
        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        address = self._config.cluster.address
        processes = self._config.experts.shards + self._config.cluster.routers
        cpus = None if address else max(os.cpu_count() or 1, processes)
        options = {
            "address": address or "local",
            "num_cpus": cpus,
            "include_dashboard": None if address else False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "namespace": "expertmesh",
        }
        try:
            call(lambda: ray.init(**options), "it to start or to be joined", START_SECONDS)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StartError(
                f"cannot start or join Ray ({address or 'local'}): {' '.join(str(error).split())}"
            ) from error

    def _look(self, application: str) -> dict[str, Any] | None:
        state = self._state()
        refusals = [said for one in state.deployments.values() if (said := refusal_in(one.message))]
        if refusals:
            raise StartError(refusals[0])
        if state.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise StartError(self._states())
        front = state.deployments.get("Front")
        if front is None or front.replica_states.get("RUNNING", 0) < self._config.cluster.fronts:
            return None
        if self._front is None:
            handle = functools.partial(serve.get_deployment_handle, "Front", application)
            self._front = call(handle, "the handle of the Front", SERVE_SECONDS)
        try:
            status: dict[str, Any] = self._front.status.remote().result(timeout_s=CALL_SECONDS)
        except (TimeoutError, RayTimeoutError):  # it, or its directory, may answer yet: `up` has a limit
            return None
        self._show(status["announcements"])
        return status | {"ray": ray.get_runtime_context().gcs_address}

    def _state(self) -> Any:
        status = call(serve.status, "the status of its applications", SERVE_SECONDS)
        return status.applications[self._config.cluster.application]

    def _states(self) -> str:
        state = self._state()
        parts = [f"{name} {one.status.value}: {_brief(one.message)}" for name, one in state.deployments.items()]
        return " | ".join([_brief(state.message), *parts])

    def _show(self, announcements: list[Announcement]) -> None:
        """One line when a process begins to load, one a quarter of the way, one when it is ready."""
        for one in announcements:
            if not one.total_bytes:  # a Front has nothing to load
                continue
            share = one.loaded_bytes / max(1, one.total_bytes)
            state = "ready" if one.state == "ready" else f"loading {int(share * 4) * 25}%"
            if self._lines.get((one.role, one.index)) != state:
                self._lines[one.role, one.index] = state
                name = f"{one.role} {one.index}" if one.role == "shard" else one.role
                print(f"{name}: {state} of {size(one.total_bytes)} (pid {one.pid})", file=self._progress, flush=True)


def _brief(message: str) -> str:
    """What a message says first, and the last line of the traceback that may follow: Serve's go on for a page."""
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "nothing said"

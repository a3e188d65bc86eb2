"""A deployed application as seen from outside: what Serve says of it, and how far its processes are."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TextIO

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from cluster.config import ControlPlaneConfig
from cluster.planner.memory_plan import refusal_in
from cluster.processes.ray_calls import SERVE_SECONDS, RayTimeoutError, call
from cluster.processes.service_registry import Announcement
from cluster.serve.ray_start import StartError
from cluster.table import size

CALL_SECONDS = 30.0
QUARTERS = 4


class ApplicationWatch:
    """Follows the application of `config` while it starts; `progress` gets a line for each step of a process.

    `go_on` is called while Ray is waited for; what it raises ends the wait.
    """

    def __init__(
        self, config: ControlPlaneConfig, progress: TextIO = sys.stderr, go_on: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._progress = progress
        self._go_on = go_on
        self._front: Any = None
        self._lines: dict[tuple[str, int], str] = {}

    def refuse_if_taken(self) -> None:
        """Deploying under a name that is taken would replace what runs, and take its streams down.

        Raises:
            StartError: an application of this name is there.
        """
        there = self._applications().get(self._config.application)
        if there is not None:
            raise StartError(
                f"an application {self._config.application} is on the Ray at {self._config.address} already "
                f"({there.status.value}): give this one another --name, or end that one first"
            )

    def deployed_at(self) -> float:
        """When the application of this name was deployed, in seconds of the wall clock; 0 if there is none."""
        there = self._applications().get(self._config.application)
        return 0.0 if there is None else float(there.last_deployed_time_s)

    def status(self) -> dict[str, Any] | None:
        """Return the Front's status with Ray's address under `ray`; None while too few Fronts run.

        Raises:
            StartError: the application has failed, or a process found too little memory on its node.
            RayTimeoutError: Ray does not answer.
        """
        state = self._application()
        self._refuse_failed(state)
        front = state.deployments.get("Front")
        if front is None or front.replica_states.get("RUNNING", 0) < self._config.fronts:
            return None
        try:
            answer = self._handle().status.remote()
            ask = functools.partial(answer.result, timeout_s=CALL_SECONDS)
            status: dict[str, Any] = call(ask, "the status of the Front", SERVE_SECONDS, self._go_on)
        except (TimeoutError, RayTimeoutError):  # the Front or the registry may answer yet: the caller has a limit
            return None
        self._show(status["announcements"])
        return status | {"ray": ray.get_runtime_context().gcs_address}

    def summary(self) -> str:
        """What Serve says of the application and of each deployment, on one line."""
        state = self._application()
        parts = [f"{name} {one.status.value}: {_brief(one.message)}" for name, one in state.deployments.items()]
        return " | ".join([_brief(state.message), *parts])

    def _refuse_failed(self, state: Any) -> None:
        # Serve would restart a process that found too little memory, and its node would be no larger.
        refusals = [said for one in state.deployments.values() if (said := refusal_in(one.message))]
        if refusals:
            raise StartError(refusals[0])
        if state.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise StartError(self.summary())

    def _handle(self) -> Any:
        if self._front is None:
            handle = functools.partial(serve.get_deployment_handle, "Front", self._config.application)
            self._front = call(handle, "the handle of the Front", SERVE_SECONDS, self._go_on)
        return self._front

    def _application(self) -> Any:
        return self._applications()[self._config.application]

    def _applications(self) -> Any:
        return call(serve.status, "the status of its applications", SERVE_SECONDS, self._go_on).applications

    def _show(self, announcements: list[Announcement]) -> None:
        """Print a line when a process begins to load, at each quarter of the way, and when it is ready."""
        for one in announcements:
            if not one.total_bytes:  # a Front has nothing to load
                continue
            state = _load_state(one)
            if self._lines.get((one.role, one.index)) != state:
                self._lines[one.role, one.index] = state
                name = f"{one.role} {one.index}" if one.role == "shard" else one.role
                print(f"{name}: {state} (pid {one.pid})", file=self._progress, flush=True)


def _load_state(one: Announcement) -> str:
    if one.state == "ready":
        return f"ready, {size(one.total_bytes)}"
    quarters = one.loaded_bytes * QUARTERS // max(1, one.total_bytes)
    return f"loading, {quarters * 100 // QUARTERS}% of {size(one.total_bytes)}"


def _brief(message: str) -> str:
    """What a message says first, and the last line of the traceback that may follow: Serve's go on for a page."""
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "no message"

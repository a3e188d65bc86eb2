"""The life of a cluster as its starter sees it: Ray up, application up, ready, drained, down."""

import functools
import sys
import time
from contextlib import ExitStack
from typing import Any, TextIO

import ray
from ray import serve

from cluster.config import ClusterConfig
from cluster.planner.config_resolver import resolve_here
from cluster.planner.memory_plan import DoesNotFitError
from cluster.planner.model import open_model
from cluster.processes.draining import NotDrainedError, drain
from cluster.processes.name_claim import NameClaimedError, claimed_name
from cluster.processes.process import environment
from cluster.processes.ray_calls import SERVE_SECONDS, START_SECONDS, RayTimeoutError, call, leave
from cluster.processes.service_registry import DrainOrder, known_registry
from cluster.processes.signals import Interrupts, StartInterruptedError, sigterm_held
from cluster.serve.application import build_app, resolved
from cluster.serve.application_watch import ApplicationWatch
from cluster.serve.own.own_ray import OwnRay
from cluster.serve.own.session_dirs import kept_here, mark_here, ray_root, remove_here, sweep
from cluster.serve.ray_start import StartError, start_ray
from cluster.serve.taking_down import break_off, claimed_again, take_down

POLL_SECONDS = 0.25
# A Ray of our own hands its environment down. On one that is joined Serve's controller, unless it runs already, must
# be told not to wait for a replica that hangs, which holds its CPU and its GPU meanwhile.
CONTROLLER = {"runtime_env": {"env_vars": environment()}}


class Launcher:
    """Starts the cluster of `config`, on a Ray of its own or a running one. A context manager: leaving it stops all."""

    def __init__(self, config: ClusterConfig, progress: TextIO = sys.stderr) -> None:
        self._config = config
        self._progress = progress
        self._own = None if config.cluster.address else OwnRay()
        self._watch = ApplicationWatch(config.cluster, progress, self._go_on)
        self._interrupts: Interrupts | None = None
        self._deployed_at: float | None = None
        self._registry: Any = None
        self._claim = ExitStack()
        self._ready = self._ending = False
        self.failed = False

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    @property
    def abandoned(self) -> bool:
        """Whether a start was broken off or Ray is lost: calls of it may hang, and the process had better just exit."""
        return self._interrupts is not None and (self.failed or not self._ready)

    def up(self, interrupts: Interrupts) -> dict[str, Any] | None:
        """Start everything and wait until it serves; return the Front's status, None if a signal came first.

        Raises:
            RayFailedError: a Ray of our own does not start, or its own processes end: another try may do.
            StartError: the model does not fit, Ray cannot be reached, the application fails, or is not ready in time;
                or an application of its name is on the Ray that is joined.
            RayTimeoutError: Ray does not answer.
        """
        self._interrupts = interrupts
        try:
            status = self._start()
        except StartInterruptedError:
            return None
        except Exception:
            self.failed = True
            raise
        # Now: without Ray's control service nobody can be found any more, but who is known can be asked.
        self._registry = known_registry(self._config.cluster.application)
        self._ready = True
        self._claim.close()
        return status

    def drain(self) -> None:
        """Turn health to NOT_SERVING and let streams in flight end, within the configured time."""
        config = self._config.cluster
        order = DrainOrder(config.drain_seconds, config.drain_notice_seconds)
        try:
            drain(self._registry, order, lambda one: one.role == "front")
        except (NotDrainedError, RayTimeoutError, ValueError, ray.exceptions.RayError) as error:
            self._print(str(error))

    def down(self) -> None:
        """Take down the application that was deployed here; a Ray that we started goes down with it."""
        self._ending = True
        if self._own is not None:
            self._end_own(self._own)
        elif not self._ready:
            self._break_off()
        elif ray.is_initialized():
            try:
                self._take_down()
            finally:
                self._leave()

    def _start(self) -> dict[str, Any]:
        self._resolve()
        if self._own is not None:
            sweep(ray_root())
        with sigterm_held():
            start_ray(self._config, self._go_on)
            assert self._interrupts is not None
            self._interrupts.listen()
        if self._own is None:
            self._start_joined()
        else:
            mark_here(ray_root())
            self._start_application()
        return self._wait()

    def _start_joined(self) -> None:
        name = self._config.cluster.application
        try:
            # Held until it serves: whoever tries the name meanwhile is refused, and it may have to be broken off.
            self._claim.enter_context(claimed_name(name, self._go_on))
        except NameClaimedError as error:
            where = f"on the Ray at {self._config.cluster.address}: give this one another --name"
            raise StartError(f"{error} {where}") from error
        self._watch.refuse_if_taken()
        self._start_application()
        self._deployed_at = self._watch.deployed_at()

    def _start_application(self) -> None:
        options = {} if self._own is not None else {"controller_options": CONTROLLER}
        start = functools.partial(serve.start, proxy_location="Disabled", **options)
        call(start, "Serve to start", START_SECONDS, self._go_on)
        target = self._target()
        self._go_on()  # what is deployed takes seconds to end
        self._deployed_at = 0.0  # set first: Serve may have taken the application even if no reply comes
        now = {"wait_for_ingress_deployment_creation": False, "wait_for_applications_running": False}
        call(lambda: serve.run_many([target], **now), "Serve to take the application", SERVE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._ending:
            return
        if self._interrupts is not None and self._interrupts():
            raise StartInterruptedError
        if self._own is not None:
            self._own.check()

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

    def _wait(self) -> dict[str, Any]:
        limit = self._config.cluster.ready_timeout_seconds
        deadline = time.monotonic() + limit
        while True:
            self._go_on()
            status = self._watch.status()
            if status is not None and status["routers"] >= self._config.cluster.routers:
                return status
            if time.monotonic() > deadline:
                raise StartError(f"not ready after {limit:.0f} s: {self._watch.summary()}")
            time.sleep(POLL_SECONDS)

    def _end_own(self, own: OwnRay) -> None:
        """Nothing is in flight in a cluster that is not ready: its processes are not asked to end, which takes long."""
        if self._ready and not own.missing():
            self._leave()
        own.kill()
        if self.failed:
            for session in kept_here(ray_root()):
                self._print(f"Ray's logs are in {session / 'logs'}")
        else:
            remove_here(ray_root())

    def _break_off(self) -> None:
        """End only what was deployed here, under the claim to its name. Ray is left by the end of the process."""
        try:
            if self._deployed_at is not None:
                break_off(self._config.cluster)
            self._claim.close()
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            self._print(str(error))

    def _take_down(self) -> None:
        name = self._config.cluster.application
        try:
            with claimed_again(name):
                if self._watch.deployed_at() in (0.0, self._deployed_at):
                    take_down(self._config.cluster)
                else:
                    self._print(f"{name} was deployed anew by somebody else: left as it is")
        except (RayTimeoutError, NameClaimedError, ray.exceptions.RayError) as error:
            self._print(str(error))

    def _leave(self) -> None:
        try:
            leave()
        except RayTimeoutError as error:
            self._print(str(error))

    def _print(self, said: str) -> None:
        print(f"expertmesh: {' '.join(said.split())}", file=self._progress, flush=True)

"""`expertmesh serve`: start a cluster and serve until a signal."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster.cli.failing import fail
from cluster.cli.serve.ending import EXIT_RAY_FAILED, end_at_once, start_again, stopped_early
from cluster.cli.serve.serve_flags import add_cluster_flags, add_security_flags, config_of, overrides_of
from cluster.config import ClusterConfig, ConfigError
from cluster.processes.signals import Interrupts
from cluster.serve.default_ports import DefaultPorts
from cluster.serve.preflight import check_model, check_ports
from cluster.serve.security import check_security, security_warnings
from experts.checkpoint.errors import CheckpointError
from router_service.front.config import FrontConfig
from router_service.front.telemetry.tracing import check_installed

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers

    from cluster.planner.model import ServedModel
    from cluster.serve.launcher import Launcher

# Called with the Front's status while the cluster serves; the cluster is drained when it returns.
WhileUp = Callable[[ClusterConfig, dict[str, Any], Interrupts], None]
PORTS_MAY_MOVE = "each Front picks free ports on its node: one that is replaced may have others, so set them"
# What follows the checks; returns the exit code.
Start = Callable[[ClusterConfig, WhileUp, Interrupts], int]


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("serve", help="start a cluster and serve a checkpoint")
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="directory (default: the bundled model)")
    add_cluster_flags(parser)
    add_security_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_cluster(args, _wait_for_signal)


def start_checked(config: ClusterConfig, while_up: WhileUp, interrupts: Interrupts) -> int:
    """Start the cluster of a configuration that has been checked; the rest as `run_cluster`."""
    # Ray takes seconds to import; errors of the arguments must not wait for it.
    from cluster.processes.ray_calls import RayTimeoutError
    from cluster.serve.launcher import Launcher
    from cluster.serve.own.ray_watch import RayLostError
    from cluster.serve.ray_start import RayFailedError, StartError

    failure: RayFailedError | None = None
    with Launcher(config) as launcher:
        try:
            code = _served(launcher, config, while_up, interrupts)
        except RayFailedError as error:
            failure = error
        except (StartError, RayTimeoutError) as error:
            code = fail(str(error))
        except RayLostError as error:
            launcher.failed, code = True, EXIT_RAY_FAILED
            print(f"expertmesh: {error}", file=sys.stderr, flush=True)
            launcher.drain()
    if failure is not None:
        code = start_again(str(failure), interrupts)
    if launcher.abandoned:
        end_at_once(code)
    return code


def _served(launcher: "Launcher", config: ClusterConfig, while_up: WhileUp, interrupts: Interrupts) -> int:
    from cluster.serve.own.vigil import without_rays_reports

    with without_rays_reports():
        status = launcher.up(interrupts)
    if status is None:
        return stopped_early()
    print(ready_line(config, status), flush=True)
    while_up(config, status, interrupts)
    launcher.drain()
    return 0


def run_cluster(args: argparse.Namespace, while_up: WhileUp, start: Start = start_checked) -> int:
    """Start the cluster that `args` describe, call `while_up` with the Front's status, drain, take all down.

    `start` is called once all checks that need no Ray have passed. Returns the exit code: what is wrong with the
    arguments, the checkpoint or the start is one line on stderr.
    """
    interrupts = Interrupts()
    with DefaultPorts() as ports:
        try:
            config, model = _checked(ports, args)
            lines = _compute_lines(config, model)
        except (ConfigError, CheckpointError, ValueError) as error:
            return fail(str(error))
        if interrupts():
            return stopped_early()
        for line in (*model.plan.notices, *lines, *(f"warning: {warning}" for warning in security_warnings(config))):
            print(f"expertmesh: {line}", file=sys.stderr, flush=True)
        return start(config, while_up, interrupts)


def _checked(ports: DefaultPorts, args: argparse.Namespace) -> tuple[ClusterConfig, "ServedModel"]:
    """The configuration and the model, after every check that needs no Ray; the fastest checks come first."""
    config = config_of(args)
    check_security(config)
    config = replace(config, front=_with_ports(config, ports, set(overrides_of(args).get("front", {}))))
    check_ports(config)
    check_installed(config.tracing)
    print(f"expertmesh: {starting_line(config)}", file=sys.stderr, flush=True)
    model = check_model(config)
    return config if config.cluster.address else _resolved(config, model), model


def _compute_lines(config: ClusterConfig, model: "ServedModel") -> list[str]:
    """What computes on this machine. The processes log the same each for itself, on a Ray that is joined only they."""
    from kernels.select import notice  # imports torch

    line = "" if config.cluster.address else notice(config.experts.backend, model.device.type)
    return [line] if line else []


def _with_ports(config: ClusterConfig, ports: DefaultPorts, given: set[str]) -> FrontConfig:
    """Decide the ports, but for several Fronts on a joined Ray: each picks free ports on its own node."""
    if config.cluster.address and config.cluster.fronts > 1:
        if 0 in (config.front.grpc_port, config.front.metrics_port, config.front.http_port):
            print(f"expertmesh: {PORTS_MAY_MOVE}", file=sys.stderr, flush=True)
        return config.front
    return ports.choose(config.front, given, config.cluster.fronts)


def starting_line(config: ClusterConfig) -> str:
    """What is about to start; printed before the imports that take seconds."""
    cluster, model = config.cluster, config.model
    what = f"{model.served_name} from {model.path}" if model.checkpoint else "the bundled model"
    where = f"the Ray at {cluster.address}" if cluster.address else "a Ray of its own"
    copies = f", copies: {config.experts.copies}" if config.experts.copies > 1 else ""
    counts = f"shards: {config.experts.shards}{copies}, routers: {cluster.routers}, fronts: {cluster.fronts}"
    return f"starting {what} on {where}; {counts}"


def _resolved(config: ClusterConfig, model: "ServedModel") -> ClusterConfig:
    from cluster.planner.config_resolver import resolve_here

    return resolve_here(config, model)


def _wait_for_signal(config: ClusterConfig, status: dict[str, Any], interrupts: Interrupts) -> None:
    from cluster.serve.own.vigil import vigil

    vigil(config.cluster, status["ray"], interrupts, sys.stderr)
    print("draining: no new requests, streams in flight end", file=sys.stderr, flush=True)


def ready_line(config: ClusterConfig, status: dict[str, Any]) -> str:
    """The line that says where the cluster is reached."""
    front = config.front
    metrics = f"http://{front.metrics_host}:{status['metrics_port']}/metrics"
    scheme = "https" if front.tls_cert else "http"
    page = f" http={scheme}://{front.http_host}:{status['http_port']}/" if front.http_port is not None else ""
    return f"ready grpc={front.host}:{status['grpc_port']} metrics={metrics}{page} ray={status['ray']}"

"""`expertmesh serve`: start a cluster and serve until a signal."""

import argparse
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.cli.client_command import fail, one_line
from cluster.cli.default_ports import DefaultPorts
from cluster.config import ClusterConfig, ConfigError, config_from, given
from cluster.serve.security import check_security, security_warnings
from experts.checkpoint.errors import CheckpointError
from router_service.front.config import FrontConfig
from router_service.front.telemetry.tracing import check_installed

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers

    from cluster.planner.model import ServedModel
    from cluster.processes.signals import Interrupts

MAX_PORT = 65535
# Flag name to (section, key) of the configuration.
FLAGS: dict[str, tuple[str, str]] = {
    "shards": ("experts", "shards"),
    "routers": ("cluster", "routers"),
    "fronts": ("cluster", "fronts"),
    "grpc_host": ("front", "host"),
    "grpc_port": ("front", "grpc_port"),
    "metrics_host": ("front", "metrics_host"),
    "metrics_port": ("front", "metrics_port"),
    "http_host": ("front", "http_host"),
    "http_port": ("front", "http_port"),
    "dtype": ("model", "dtype"),
    "device": ("model", "device"),
    "address": ("cluster", "address"),
    "name": ("cluster", "application"),
    "tls_cert": ("front", "tls_cert"),
    "tls_key": ("front", "tls_key"),
    "tls_client_ca": ("front", "tls_client_ca"),
    "tokens_file": ("front", "tokens_file"),
    "allow_unauthenticated": ("front", "allow_unauthenticated"),
    "secret_file": ("cluster", "secret_file"),
}
SECURITY_FLAGS = {
    "tls-cert": "PEM: the server's certificate chain; with it API and live page speak TLS only",
    "tls-key": "PEM: its key",
    "tls-client-ca": "PEM: whom clients' certificates must come from (mutual TLS)",
    "tokens-file": "who may call: lines of `expertmesh token`",
    "secret-file": "what the cluster's processes prove to each other",
}


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("serve", help="start a cluster and serve a checkpoint")
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="directory (default: the bundled model)")
    add_cluster_flags(parser)
    add_security_flags(parser)
    parser.set_defaults(run=run)


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a cluster is started; each overrides a key of the configuration file."""
    parser.add_argument("--config", metavar="FILE.yaml", type=Path, help="configuration; flags override it")
    parser.add_argument("--shards", type=int, metavar="N", help="expert shards")
    parser.add_argument("--routers", type=int, metavar="N", help="routers that share the shards")
    parser.add_argument("--fronts", type=int, metavar="N", help="processes that serve the API")
    parser.add_argument("--grpc-host", metavar="HOST", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--grpc-port", type=int, metavar="PORT", help="0 picks a free one (default: 50051, or the next free one)"
    )
    parser.add_argument("--metrics-host", metavar="HOST", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="0 picks a free one (default: 9090, or the next free one)"
    )
    parser.add_argument("--http-host", metavar="HOST", help="address of the live page (default: 127.0.0.1)")
    parser.add_argument("--http-port", type=int, metavar="PORT", help="0 picks a free one (default)")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--address", metavar="RAY", help="join this Ray cluster (auto or HOST:PORT), else start one")
    parser.add_argument("--name", metavar="NAME", help="name of the Serve application (default: expertmesh)")


def add_security_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say who may reach the cluster; each overrides a key of the configuration file."""
    for name, text in SECURITY_FLAGS.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=text)
    text = "without a tokens file too, listen on addresses that others reach"
    parser.add_argument("--allow-unauthenticated", action="store_true", default=None, help=text)


def config_of(args: argparse.Namespace) -> ClusterConfig:
    """The configuration of the file and the flags.

    Raises:
        ConfigError: see `load_config`.
    """
    return config_from(_given(args))


def _given(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    overrides: dict[str, dict[str, Any]] = {}
    for flag, (section, key) in FLAGS.items():
        if (value := getattr(args, flag, None)) is not None:
            overrides.setdefault(section, {})[key] = value
    if getattr(args, "checkpoint", None) is not None:
        overrides.setdefault("model", {})["checkpoint"] = args.checkpoint
    return given(args.config, overrides)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_cluster(args, _until_signalled)


def run_cluster(
    args: argparse.Namespace, while_up: Callable[[ClusterConfig, dict[str, Any], "Interrupts"], None]
) -> int:
    """Start the cluster that `args` describe, call `while_up` with the Front's status, drain, take all down.

    Returns the exit code: what is wrong with the arguments, the checkpoint or the start is one line on stderr.
    """
    with DefaultPorts() as ports:
        return _run_on(ports, args, while_up)


def _run_on(
    ports: DefaultPorts,
    args: argparse.Namespace,
    while_up: Callable[[ClusterConfig, dict[str, Any], "Interrupts"], None],
) -> int:
    try:
        config = config_of(args)
        check_security(config)
        config = replace(config, front=_with_ports(config, ports, set(_given(args).get("front", {}))))
        check_ports(config)
        check_installed(config.tracing)
        print(f"expertmesh: {starting_line(config)}", file=sys.stderr, flush=True)
        model = check_model(config)
        config = config if config.cluster.address else _settled(config, model)
    except (ConfigError, CheckpointError, ValueError) as error:
        return fail(one_line(str(error)))
    for line in (*model.plan.notices, *(f"warning: {warning}" for warning in security_warnings(config))):
        print(f"expertmesh: {line}", file=sys.stderr, flush=True)
    return _run_checked(config, while_up)


def _with_ports(config: ClusterConfig, ports: DefaultPorts, given: set[str]) -> FrontConfig:
    """On a Ray that is joined, several Fronts have ports of their own choice unless they are told some."""
    if config.cluster.address and config.cluster.fronts > 1:
        return config.front
    return ports.choose(config.front, given, config.cluster.fronts)


def starting_line(config: ClusterConfig) -> str:
    """What is about to start, said before anything is imported that takes seconds."""
    cluster, model = config.cluster, config.model
    what = f"{model.served_name} from {model.path}" if model.checkpoint else "the bundled model"
    where = f"the Ray at {cluster.address}" if cluster.address else "a Ray of its own"
    counts = f"shards: {config.experts.shards}, routers: {cluster.routers}, fronts: {cluster.fronts}"
    return f"starting {what} on {where}; {counts}"


def _settled(config: ClusterConfig, model: "ServedModel") -> ClusterConfig:
    from cluster.planner.config_resolver import settle_here

    return settle_here(config, model)


def _run_checked(config: ClusterConfig, while_up: Callable[[ClusterConfig, dict[str, Any], "Interrupts"], None]) -> int:
    from cluster.processes.ray_calls import RayTimeoutError
    from cluster.processes.signals import Interrupts
    from cluster.serve.launcher import Launcher, StartError

    interrupts = Interrupts()
    with Launcher(config) as launcher:
        try:
            status = launcher.up(interrupts)
        except (StartError, RayTimeoutError) as error:
            return fail(str(error))
        if status is not None:
            print(ready_line(config, status), flush=True)
            while_up(config, status, interrupts)
            launcher.drain()
    return 0


def _until_signalled(_: ClusterConfig, __: dict[str, Any], interrupts: "Interrupts") -> None:
    while not interrupts.wait(1.0):
        pass
    print("draining: no new requests, streams in flight end", file=sys.stderr, flush=True)


def check_model(config: ClusterConfig) -> "ServedModel":
    """Find out what is wrong with the checkpoint before any process or port is opened; return what it is.

    A GPU must be here only where the model is computed here: the nodes of a Ray that is joined have their own.

    Raises:
        CheckpointError: see `open_model` and `load_text_model`.
        ValueError: more shards than experts.
    """
    from cluster.planner.model import open_model
    from experts.placement import even_placement
    from router_service.front.text.text_model import load_text_model

    model = open_model(config.model, config.weights, verify=True, computes_here=not config.cluster.address)
    even_placement(model.plan.spec.gate.experts, config.experts.shards)
    load_text_model(model.plan.checkpoint.path)
    return model


def check_ports(config: ClusterConfig) -> None:
    """Find out whether the ports that were asked for are free here, where the Front will run.

    Raises:
        ConfigError: one is taken, or the address is not this machine's, or several Fronts cannot share it.
    """
    front, fronts = config.front, 1 if config.cluster.address else config.cluster.fronts
    if fronts > 1 and front.grpc_port == 0:
        raise ConfigError("front.grpc_port is 0, but cluster.fronts is over 1: set the port that the Fronts share")
    for key, host, port in _ports(front, fronts):
        if port > MAX_PORT:
            raise ConfigError(f"front.{key}: {fronts} Fronts need a port each, and ports end at {MAX_PORT}")
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            raise ConfigError(f"front.{key}: cannot listen on {host}:{port}: {error.strerror}") from error


def _ports(front: FrontConfig, fronts: int) -> Iterator[tuple[str, str, int]]:
    """Key, host and port of all that so many Fronts of one machine listen on: metrics are on a port each."""
    yield "grpc_port", front.host, front.grpc_port
    if front.metrics_port is not None:
        for place in range(fronts if front.metrics_port else 1):
            yield "metrics_port", front.metrics_host, front.metrics_port + place
    if front.http_port is not None:
        yield "http_port", front.http_host, front.http_port


def ready_line(config: ClusterConfig, status: dict[str, Any]) -> str:
    """The line that says where the cluster is reached."""
    front = config.front
    metrics = f"http://{front.metrics_host}:{status['metrics_port']}/metrics"
    scheme = "https" if front.tls_cert else "http"
    page = f" http={scheme}://{front.http_host}:{status['http_port']}/" if front.http_port is not None else ""
    return f"ready grpc={front.host}:{status['grpc_port']} metrics={metrics}{page} ray={status['ray']}"

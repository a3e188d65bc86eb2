"""`expertmesh drain`: let the streams of a cluster on a running Ray end, before its processes or its nodes go away."""

import argparse
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

import psutil

from cluster.cli.failing import fail

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers

CONNECT_SECONDS = 5.0
# Ray's own variable: what `auto` then means.
RAY_ADDRESS = "RAY_ADDRESS"
# A Ray that `ray.init` starts asks for the token in this file. Ray shows it to one that it finds by itself, and to one
# that is named only if the variable says so; we name those of this machine.
RAY_AUTH_MODE = "RAY_AUTH_MODE"
TOKEN_FILE = "~/.ray/auth_token"


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("drain", help="refuse new requests and wait until the streams in flight have ended")
    parser.add_argument(
        "--address",
        metavar="RAY",
        default="auto",
        help="the Ray cluster: auto (default: the one of this machine) or HOST:PORT, as `serve` prints it",
    )
    parser.add_argument("--name", metavar="NAME", default="expertmesh", help="the Serve application")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long streams may go on (30)")
    parser.add_argument(
        "--notice",
        type=float,
        default=0.0,
        metavar="S",
        help="how long health is NOT_SERVING before new requests are refused (0)",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="drain all processes on this node (Fronts refuse, routers hand over, shards wait), not the Fronts of all",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.seconds <= 0 or args.notice < 0:
        return fail(f"--seconds must be over 0 and --notice at least 0, got {args.seconds:g} and {args.notice:g}")
    if args.address != "auto" and not _listens(args.address):
        return fail(f"cannot drain {args.name}: nothing listens on {args.address}")
    found = local_ray_addresses()
    if args.address == "auto" and RAY_ADDRESS not in os.environ and len(found) > 1:
        return fail(f"cannot drain {args.name}: several Rays run here, name one by --address: {', '.join(found)}")
    if args.address in found and os.path.exists(os.path.expanduser(TOKEN_FILE)):
        os.environ.setdefault(RAY_AUTH_MODE, "token")
    import ray

    from cluster.processes.ray_calls import START_SECONDS, RayTimeoutError, call, leave

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "expertmesh"}
        call(lambda: ray.init(address=args.address, **quiet), f"joining the Ray at {args.address}", START_SECONDS)
        _drain(args)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        return fail(f"cannot drain {args.name}: {error}")
    finally:
        with contextlib.suppress(RayTimeoutError):  # the outcome has been printed
            leave()
    return 0


def _drain(args: argparse.Namespace) -> None:
    import ray

    from cluster.processes.draining import drain
    from cluster.processes.process import node_id
    from cluster.processes.service_registry import DrainOrder, known_registry

    here, address = node_id(), ray.get_runtime_context().gcs_address
    try:
        registry = known_registry(args.name)
    except ValueError:  # Ray's own message names an actor, of which the user knows nothing
        raise ValueError(f"the Ray at {address} runs no such cluster (--name, --address)") from None
    order = DrainOrder(args.seconds, args.notice)
    count = drain(registry, order, lambda one: one.node == here if args.here else one.role == "front")
    print(f"drained {args.name} of the Ray at {address}, processes: {count}")


def local_ray_addresses() -> list[str]:
    """Addresses of the Rays that have a node on this machine, from the command lines of their raylets."""
    found = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet":
            options = dict(word.split("=", 1) for word in process.info["cmdline"] or () if "=" in word)
            found.add(options.get("--gcs-address", f"pid {process.pid}"))
    return sorted(found)


def _listens(address: str) -> bool:
    """Whether HOST:PORT accepts connections: Ray would wait for minutes, and a terminating pod has seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True

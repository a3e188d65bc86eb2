"""`expertmesh drain`: let the streams of a cluster on a running Ray end, before its node goes away."""

import argparse
import logging
import socket
from typing import TYPE_CHECKING

from cluster.client_command import fail, one_line

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers

MARGIN_SECONDS = 10.0
CONNECT_SECONDS = 5.0


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("drain", help="refuse new requests and wait until the streams in flight have ended")
    parser.add_argument("--address", metavar="RAY", default="auto", help="the Ray cluster: auto (default) or HOST:PORT")
    parser.add_argument("--name", metavar="NAME", default="expertmesh", help="the Serve application")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long streams may go on")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code; it does not matter which of the cluster's nodes it runs on."""
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    if args.address != "auto" and not _listens(args.address):
        return fail(f"cannot drain {args.name}: nothing listens on {args.address}")
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(address=args.address, log_to_driver=False, logging_level=logging.ERROR, namespace="expertmesh")
        front = serve.get_deployment_handle("Front", args.name)
        front.drain.remote(args.seconds).result(timeout_s=args.seconds + MARGIN_SECONDS)
    except (OSError, RuntimeError, ValueError, RayServeException, ray.exceptions.RayError) as error:
        return fail(f"cannot drain {args.name}: {one_line(str(error))}")
    finally:
        ray.shutdown()
    return 0


def _listens(address: str) -> bool:
    """Whether HOST:PORT takes connections: Ray itself would wait for minutes, and a pod that ends has seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True

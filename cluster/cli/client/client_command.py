"""What the commands for a running server share: the target, and errors in one line."""

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

import grpc
import grpc.aio

from cluster.cli.failing import EXIT_ERROR, EXIT_FAILED, EXIT_INTERRUPTED, fail, one_line
from router_service.client.channel import Tls
from router_service.client.client import Client
from router_service.protocol.request_id import request_id_of

TOKEN_VARIABLE = "EXPERTMESH_TOKEN"
DEFAULT_TARGET = "127.0.0.1:50051"
NO_SERVER = "no server answers there: start one with `expertmesh serve`, or name another with --target"


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add `--target` and how it is reached; the environment's EXPERTMESH_TARGET and EXPERTMESH_TOKEN are defaults."""
    default = os.environ.get("EXPERTMESH_TARGET", DEFAULT_TARGET)
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        default=default,
        help="server to talk to, or several of one cluster separated by commas (default: %(default)s)",
    )
    parser.add_argument("--tls", action="store_true", help="speak TLS; implied by --ca and --cert")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM: the CA that signed the server's certificate")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="PEM: our certificate, for mutual TLS")
    parser.add_argument("--key", type=Path, metavar="FILE", help="PEM: the key of --cert")
    parser.add_argument(
        "--attempts", type=int, default=1, metavar="N", help="send a call refused with UNAVAILABLE up to N times (1-5)"
    )
    # Not a default of the parser: help and errors show those.
    parser.add_argument("--token", metavar="TOKEN", help="bearer token; better in EXPERTMESH_TOKEN, out of `ps`")


def client_of(args: argparse.Namespace) -> Client:
    """Return a client of the server that the arguments of `add_target` name.

    Raises:
        OSError, ValueError: a file cannot be read, or the arguments do not go together.
    """
    named = args.ca or args.cert or args.key
    tls = Tls(args.ca, args.cert, args.key) if args.tls or named else None
    token = args.token or os.environ.get(TOKEN_VARIABLE, "").strip()
    return Client(args.target.split(","), tls=tls, token=token, attempts=args.attempts)


def run_client(work: Coroutine[object, object, int | None], target: str) -> int:
    """Run a command to its end and return the exit code, its own if it returns one; an error is one line on stderr.

    Raises:
        BrokenPipeError: nobody reads what it prints any more.
    """
    return ended(lambda: asyncio.run(work) or 0, target)


def ended(work: Callable[[], int], target: str) -> int:
    """Return the exit code of `work`, or of how it failed; an error is one line on stderr.

    Raises:
        BrokenPipeError: nobody reads what it prints any more.
    """
    try:
        return work()
    except grpc.aio.AioRpcError as error:
        return refused(error, target)
    except BrokenPipeError:  # of what is printed; calls fail with gRPC's errors
        raise
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def refused(error: grpc.aio.AioRpcError, target: str) -> int:
    """Print how a call ended in one line, and return the exit code."""
    # Refused as things are, not for what was asked.
    as_things_are = error.code() is grpc.StatusCode.FAILED_PRECONDITION
    return fail(_said(error, target), EXIT_FAILED if as_things_are else EXIT_ERROR)


def _said(error: grpc.aio.AioRpcError, target: str) -> str:
    said = f"{target}: {error.code().name}: {one_line(error.details() or 'no details')}"
    if request_id := one_line(request_id_of(error)):
        return f"{said} (request {request_id})"
    # Our servers name the request in every refusal, so none of them has answered.
    return f"{said}; {NO_SERVER}" if error.code() is grpc.StatusCode.UNAVAILABLE else said

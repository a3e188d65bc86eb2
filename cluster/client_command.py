"""What the commands that talk to a running server share: the target, and errors in one line."""

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine

import grpc
import grpc.aio

DEFAULT_TARGET = "127.0.0.1:50051"
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add `--target`; the environment's EXPERTMESH_TARGET is its default."""
    default = os.environ.get("EXPERTMESH_TARGET", DEFAULT_TARGET)
    parser.add_argument(
        "--target", metavar="HOST:PORT", default=default, help="server to talk to (default: %(default)s)"
    )


def run_client(work: Coroutine[object, object, None], target: str) -> int:
    """Run a command to its end and return the exit code; what goes wrong is one line on stderr."""
    try:
        asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        return fail(f"{target}: {error.code().name}: {one_line(error.details() or 'no details')}")
    except (ValueError, OSError) as error:
        return fail(one_line(str(error)))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def fail(message: str) -> int:
    """Print an error and return its exit code."""
    print(f"expertmesh: {message}", file=sys.stderr)
    return EXIT_ERROR


def one_line(text: str) -> str:
    """Return `text` without line breaks."""
    return " ".join(text.split())

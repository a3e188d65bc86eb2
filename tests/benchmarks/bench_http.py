"""The HTTP API against gRPC, under a crowd of slow readers, and what the frameworks cost that it could stand on.

`python -m tests.benchmarks.bench_http --rows faces,crowd,frameworks` starts a server of the bundled model and prints
tables.
"""

import argparse
import asyncio
import re
import tempfile
from pathlib import Path

import psutil

from tests.benchmarks.http import crowd, faces, frameworks
from tests.e2e.server import Server, serving

ROWS = ("faces", "crowd", "frameworks")
MODEL = "expertmesh-bundled"
HTTP = re.compile(r"http=\w+://[\d.]+:(\d+)/")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    wanted = args.rows.split(",")
    if "frameworks" in wanted:
        show(frameworks.rows())
    if {"faces", "crowd"} & set(wanted):
        with tempfile.TemporaryDirectory() as folder:
            flags = ("--shards", "2", "--grpc-port", "0", "--metrics-port", "0", "--http-port", "0")
            with serving(*flags, log=Path(folder) / "log") as server:
                served(server, wanted, args.rounds)


def served(server: Server, wanted: list[str], rounds: int) -> None:
    """The rows that need a server."""
    log = server.log.read_text()
    port = int(HTTP.findall(log)[0])
    if "faces" in wanted:
        show(asyncio.run(faces.rows(server.target, port, MODEL, rounds)))
    if "crowd" in wanted:
        show(asyncio.run(crowd.rows(port, MODEL, front_of(server))))


def front_of(server: Server) -> psutil.Process:
    """The process that serves the API."""
    found = map(psutil.Process, server.descendants())
    return next(process for process in found if "Front" in " ".join(process.cmdline()))


def show(lines: list[str]) -> None:
    """Print a table."""
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()

"""What this machine can do at best, measured in the same run as what it is compared with."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

SOURCE = Path(__file__).with_name("probe.cpp")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")
MEBIBYTES = 512  # read over and over: far more than the caches hold
PING_BYTES, PING_ROUNDS = 64, 2000
COMPUTE = ("fma_f32", "dot_bf16", "tile_bf16")


@dataclass(frozen=True)
class Limits:
    """The machine's limits: of each the value of every round.

    Args:
        read: reading memory with all threads, GB/s (10^9 bytes).
        peaks: arithmetic in registers with all threads, GFLOP/s, by kind: float32 FMA, bfloat16 dot products, bfloat16
            tiles. What the CPU lacks is missing.
        ping: a message of 64 bytes there and back between two processes over a unix socket, microseconds.
        source: what measured: the probe in C++, or torch as a stand-in, whose values are below the machine's.
    """

    read: tuple[float, ...]
    peaks: Mapping[str, tuple[float, ...]]
    ping: tuple[float, ...]
    source: str

    @property
    def bytes_per_second(self) -> float:
        """Median of the read bandwidth."""
        return 1e9 * median(self.read)

    @property
    def operations_per_second(self) -> float:
        """The highest of the peaks: bfloat16 products may also be computed in float32."""
        return 1e9 * max(median(values) for values in self.peaks.values())


def measure(rounds: int, seconds: float = 0.5, mebibytes: int = MEBIBYTES) -> Limits:
    """Measure all limits, each for about `seconds` in each of the rounds."""
    threads = len(os.sched_getaffinity(0))
    ping = tuple(ping_microseconds() for _ in range(rounds))
    if compiler := shutil.which("g++"):
        found = _probe(compiler, threads, rounds, seconds, mebibytes)
        source = "g++ " + " ".join(FLAGS[1:])
    else:
        found, source = _torch_stand_in(rounds, mebibytes), "torch (no g++: the machine can do more)"
    peaks = {kind: tuple(found[kind]) for kind in COMPUTE if found.get(kind)}
    return Limits(tuple(found["read"]), peaks, ping, source)


def _probe(compiler: str, threads: int, rounds: int, seconds: float, mebibytes: int) -> Mapping[str, Sequence[float]]:
    """Compile the probe and run it."""
    with tempfile.TemporaryDirectory() as work:
        program = Path(work) / "probe"
        subprocess.run([compiler, *FLAGS, "-o", str(program), str(SOURCE)], check=True)
        arguments = [str(program), *map(str, (threads, mebibytes, rounds, seconds))]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _torch_stand_in(rounds: int, mebibytes: int) -> Mapping[str, Sequence[float]]:
    """The same by torch's sum and products, where there is no compiler."""
    memory = torch.ones(mebibytes << 18)
    squares = {"fma_f32": torch.randn(1024, 1024), "dot_bf16": torch.randn(1024, 1024).bfloat16()}
    found: dict[str, list[float]] = {"read": [], **{kind: [] for kind in squares}}
    for _ in range(rounds):
        found["read"].append(memory.nbytes / _least_seconds(memory.sum) / 1e9)
        for kind, square in squares.items():
            found[kind].append(2 * 1024**3 / _least_seconds(lambda x=square: x @ x) / 1e9)
    return found


def _least_seconds(work: object, times: int = 3) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()  # type: ignore[operator]
        taken.append(time.perf_counter() - begun)
    return min(taken)


def ping_microseconds(size: int = PING_BYTES, rounds: int = PING_ROUNDS) -> float:
    """Median microseconds of `size` bytes to another process and back over a unix socket."""
    ours, theirs = socket.socketpair()
    if (child := os.fork()) == 0:
        _echo(ours, theirs, size)
    theirs.close()
    try:
        return median(_ping(ours, bytes(size)) for _ in range(rounds)) * 1e6
    finally:
        ours.close()
        os.waitpid(child, 0)


def _echo(ours: socket.socket, theirs: socket.socket, size: int) -> None:
    """The child's whole life: send back what comes, until nothing does."""
    try:
        ours.close()
        while data := theirs.recv(size, socket.MSG_WAITALL):
            theirs.sendall(data)
    finally:
        os._exit(0)


def _ping(sock: socket.socket, data: bytes) -> float:
    begun = time.perf_counter()
    sock.sendall(data)
    sock.recv(len(data), socket.MSG_WAITALL)
    return time.perf_counter() - begun

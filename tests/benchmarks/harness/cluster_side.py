"""A real cluster under measurement: started by the launcher, driven over gRPC, its metrics and processes read."""

import asyncio
import signal
import time
import urllib.request
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from cluster.config import ClusterConfig, ControlPlaneConfig, ModelConfig
from cluster.processes.signals import Interrupts
from cluster.serve.launcher import Launcher
from experts.config import ExpertsConfig
from router_service.client.client import Client
from router_service.config import EngineConfig
from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.harness.streams import Stream, decode_rate
from tests.benchmarks.harness.worker import peak_bytes

REPORT_SECONDS = 1.0  # routers publish so often
CALL_SECONDS = 600.0
Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class StampedLines:
    """A text sink that notes when each line came, in seconds since it was made."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.lines: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        if text.strip():
            self.lines.append((time.monotonic() - self.begun, text.strip()))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


@dataclass(frozen=True)
class Process:
    """One process of the cluster and the most memory it ever had resident."""

    name: str
    pid: int
    peak_bytes: int


class Cluster:
    """The cluster of one checkpoint, up from its making until `close`. `start_events` says when what was ready."""

    def __init__(
        self, directory: Path | None, shards: int, dtype: str, kv_tokens: int = 0, name: str = "benchmark"
    ) -> None:
        model = ModelConfig(checkpoint=str(directory) if directory else "", dtype=dtype)
        self.config = ClusterConfig(
            model=model,
            experts=ExpertsConfig(shards=shards),
            router=EngineConfig(kv_cache_tokens=kv_tokens),
            cluster=ControlPlaneConfig(application=name),
        )
        sink = StampedLines()
        self._launcher = Launcher(self.config, sink)  # type: ignore[arg-type]
        try:
            status = _up(self._launcher)
        except BaseException:
            self._launcher.down()
            raise
        self.start_events = [*sink.lines, (time.monotonic() - sink.begun, "cluster: ready")]
        self._announced = status["announcements"]
        self._metrics_url = f"http://127.0.0.1:{status['metrics_port']}/metrics"
        self._runner = asyncio.Runner()
        self.client = self.run(self._connect(f"127.0.0.1:{status['grpc_port']}"))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the client's loop."""
        return self._runner.run(work)

    def prefill(self, tokens: Tokens) -> float:
        """Seconds from the call to the first token."""
        stream: Stream = self.run(self._stream(tokens, 1))
        return stream.times[0] - stream.begun

    def decode(self, prompts: list[Tokens], steps: int) -> float:
        """Seconds that `steps` tokens for each prompt take once all streams have begun."""
        streams = self.run(self._streams(prompts, steps + 1))
        return len(prompts) * steps / decode_rate(streams)

    def watch_decode(self, prompts: list[Tokens], seconds: float, new_tokens: int) -> Metrics:
        """What the metrics counted within about `seconds` of nothing but decoding all prompts at once."""
        before, after = self.run(self._watch(prompts, seconds, new_tokens))
        return {key: value - before.get(key, 0.0) for key, value in after.items()}

    def metrics(self) -> Metrics:
        """Every sample of the Front's page."""
        with urllib.request.urlopen(self._metrics_url, timeout=10) as page:
            families = text_string_to_metric_families(page.read().decode())
        return {
            (s.name.removeprefix("expertmesh_"), tuple(sorted(s.labels.items()))): s.value
            for f in families for s in f.samples
        }  # fmt: skip

    def processes(self) -> list[Process]:
        """Router, shards and Front, then all that Ray itself runs."""
        names = {a.pid: f"{a.role} {a.index}" if a.role == "shard" else a.role for a in self._announced}
        found = [(names.get(p.pid) or _ray_name(p), p.pid) for p in psutil.Process().children(recursive=True)]
        kept = [Process(name, pid, peak_bytes(pid)) for name, pid in found if name]
        return sorted(kept, key=lambda process: (process.name.startswith("ray "), process.name))

    def idle_cores(self, seconds: float) -> float:
        """Cores that all processes together keep busy when nothing is asked of them."""
        before = self._cpu_seconds()
        time.sleep(seconds)
        return (self._cpu_seconds() - before) / seconds

    def close(self) -> None:
        """Take the cluster down."""
        try:
            self.run(self.client.close())
            self._runner.close()
        finally:
            self._launcher.down()

    def _cpu_seconds(self) -> float:
        return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in self.processes())

    async def _connect(self, target: str) -> Client:
        client = Client(target)
        await client.wait_ready(60)
        return client

    async def _stream(self, tokens: Tokens, new_tokens: int) -> Stream:
        return await Stream.start(self.client, tokens, new_tokens, CALL_SECONDS).wait()

    async def _streams(self, prompts: list[Tokens], new_tokens: int) -> list[Stream]:
        return await asyncio.gather(*(self._stream(tokens, new_tokens) for tokens in prompts))

    async def _watch(self, prompts: list[Tokens], seconds: float, new_tokens: int) -> tuple[Metrics, Metrics]:
        streams = [Stream.start(self.client, tokens, new_tokens, CALL_SECONDS) for tokens in prompts]
        try:
            while not all(stream.times for stream in streams):
                await asyncio.sleep(0.02)
            await asyncio.sleep(1.5 * REPORT_SECONDS)
            before = await asyncio.to_thread(self.metrics)
            await asyncio.wait([stream.task for stream in streams], timeout=seconds, return_when="FIRST_COMPLETED")
            return before, await asyncio.to_thread(self.metrics)
        finally:
            for stream in streams:
                await stream.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _up(launcher: Launcher) -> dict[str, Any]:
    """Start it; a signal, then or later, ends the benchmark as an exception, so that nothing is left behind."""
    interrupts = Interrupts()
    status = launcher.up(interrupts)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if status is None:
        raise KeyboardInterrupt
    return status


def _ray_name(process: psutil.Process) -> str:
    """What a process of Ray's tree is, by its title; nothing for those that are not Ray's."""
    try:
        title = " ".join(process.cmdline()[:3])
    except psutil.Error:
        return ""
    if ":Front" in title:
        return "front"
    if title.startswith("ray::"):
        return f"ray {title.removeprefix('ray::').split()[0]}"
    return f"ray {Path(title.split()[0]).name}" if title and "ray" in title else ""

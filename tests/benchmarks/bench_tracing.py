"""What tracing every request costs: decode tokens/s and processor time of a cluster that traces and one that does not.

    python -m tests.benchmarks.bench_tracing

Both serve the bundled model on two shards at the same time and are measured in turn, so that a noisy neighbour hits
both; the other one idles. Spans go by OTLP to a collector in this process, which shares the machine too. Processor
time is that of Front and router, where tracing happens: neighbours change it less than they change the rate.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
import yaml

from router_service.client.client import Client
from tests.benchmarks.harness.streams import Stream, decode_rate
from tests.e2e.server import Server, serving
from tests.support.otlp import Collector, collecting

BATCH, TOKENS, PROMPT = 16, 400, (5, 6, 7, 8)
TRACING = ("ray::ServeReplica:expertmesh:Front", "ray::ServeReplica:expertmesh:Router")


@dataclass
class Side:
    """One cluster: tokens per second, and processor milliseconds per 1000 tokens, of each round."""

    server: Server
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    async def measure(self) -> None:
        """Decode one batch."""
        before = self._processor_seconds()
        self.rates.append(await rate(self.server.target))
        self.costs.append((self._processor_seconds() - before) * 1e6 / (BATCH * TOKENS))

    def _processor_seconds(self) -> float:
        processes = [psutil.Process(pid) for pid in self.server.descendants()]
        times = [one.cpu_times() for one in processes if " ".join(one.cmdline()).startswith(TRACING)]
        assert len(times) == len(TRACING)
        return sum(one.user + one.system for one in times)


async def rate(target: str) -> float:
    """Tokens per second of a batch of streams, while all of them decode."""
    async with Client(target) as client:
        streams = [Stream.start(client, PROMPT, TOKENS, timeout_s=300) for _ in range(BATCH)]
        return decode_rate([await stream.wait() for stream in streams])


async def run(off: Side, on: Side, rounds: int) -> None:
    """Measure both in turn; the order turns round in every second round."""
    for side in (off, on):
        await rate(side.server.target)  # warms up
    for number in range(rounds):
        for side in (off, on) if number % 2 == 0 else (on, off):
            await side.measure()


@contextmanager
def both(collector: Collector, work: Path) -> Iterator[tuple[Side, Side]]:
    """The cluster that does not trace, and the one that does."""
    config = work / "tracing.yaml"
    config.write_text(yaml.safe_dump({"tracing": {"endpoint": collector.endpoint, "sample_ratio": 1.0}}))
    with (
        serving("--shards", "2", log=work / "off") as off,
        serving("--shards", "2", "--config", str(config), log=work / "on") as on,
    ):
        yield Side(off), Side(on)


def compared(what: str, off: list[float], on: list[float]) -> str:
    """The medians, and the ratio of the traced figure to the other, paired by round."""
    ratios = [one / other for one, other in zip(on, off, strict=True)]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return f"{what}: off {median(off):.0f}, on {median(on):.0f}, ratio {median(ratios):.3f} ({spread})"


def main() -> None:
    """Print both figures of both, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, collecting() as collector:
        with both(collector, Path(directory)) as (off, on):
            asyncio.run(run(off, on, args.rounds))
        # Draining sends what waits. A rate of a cluster that traced nothing would be no answer.
        requests, spans = BATCH * (args.rounds + 1), len(collector.named("decode"))
        if spans != requests:
            raise SystemExit(f"{requests} requests, but {spans} of them were traced")
    print(compared("tokens/s", off.rates, on.rates))
    print(compared("processor ms per 1000 tokens of Front and router", off.costs, on.costs))


if __name__ == "__main__":
    main()

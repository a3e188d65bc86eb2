"""The clusters that the balancer's benchmark starts, and how it says where it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.balance.accelerators.sitecustomize import VARIABLE
from tests.e2e.server import Server, serving

ACCELERATORS = Path(__file__).parent / "accelerators"
PORTS = ("--grpc-port", "0", "--metrics-port", "0", "--http-port", "0")
BEGUN = time.monotonic()


@dataclass(frozen=True)
class Setting:
    """What all rows are measured by.

    `seconds` is that of each measurement and of the balancer's window, which is at most a minute; `simulated_us` has
    what a call, an expert and a pair take a simulated accelerator.
    """

    seconds: float = 60.0
    shards: int = 4
    streams: int = 16
    extra: float = 1.0
    simulated_us: tuple[float, float, float] = (300.0, 150.0, 150.0)

    @property
    def window_s(self) -> float:
        """The balancer's window."""
        return min(60.0, self.seconds)

    @property
    def interval_s(self) -> float:
        """How often it looks."""
        return self.window_s / 6


def say(what: str) -> None:
    """Progress, with the time since the benchmark began."""
    print(f"{time.monotonic() - BEGUN:6.0f} s  {what}", flush=True)


@contextmanager
def cluster(
    setting: Setting, folder: Path, checkpoint: Path | None = None, automatic: bool = False, simulated: bool = False
) -> Iterator[Server]:
    """A cluster of the checkpoint, or the bundled model; `simulated` gives each shard an accelerator that sleeps."""
    balance: dict[str, Any] = {
        "automatic": automatic,
        "extra_copies": setting.extra,
        "window_seconds": setting.window_s,
        "interval_seconds": setting.interval_s,
        "cooldown_seconds": setting.window_s,
    }
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump({"balance": balance}))
    given = ("--shards", str(setting.shards), "--config", str(file), *PORTS)
    variables = {VARIABLE: " ".join(map(str, setting.simulated_us))} if simulated else {}
    paths = (ACCELERATORS,) if simulated else ()
    model = [str(checkpoint)] if checkpoint else []
    say("starting a cluster")
    with serving(*model, *given, log=folder / "log", variables=variables, paths=paths) as server:
        yield server

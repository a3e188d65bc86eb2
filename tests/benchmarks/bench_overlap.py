"""Two batches in flight against one, over a link with delay.

    python -m tests.benchmarks.bench_overlap [CHECKPOINT] [--batch 16] [--delay-ms 0]

The shards are processes of their own, each behind a relay that holds every frame. Unless told otherwise, the delay is
raised until the router waits as long as it computes, measured without overlap; then steps with and without take turns.
Without a checkpoint a random one is written: the Qwen3-like shape with small experts, because on one machine they would
take the router's cores, which experts on other nodes do not; the delay stands for them.
"""

import argparse
import json
import secrets
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experts.transport.address import Endpoint, new_incarnation
from experts.transport.channel import connect
from experts.transport.control import Hello
from experts.transport.frame import Kind
from experts.transport.socket import SocketTransport
from experts.transport.trust.credentials import Credentials
from router_service.config import Overlap
from router_service.engine.overlap import OverlapPolicy
from router_service.engine.step.stage import Stage
from router_service.engine.step.step_record import StepRecord
from tests.benchmarks.harness.checkpoints import shape_of, write
from tests.benchmarks.harness.report import machine
from tests.benchmarks.harness.sides import EngineSide
from tests.benchmarks.harness.worker import Worker
from tests.support.relay import Relay

NODE, TIMEOUT_S = "benchmark", 30.0
SHAPE = shape_of("qwen3").changed(
    num_hidden_layers=8, num_experts=16, moe_intermediate_size=64, num_experts_per_tok=4, vocab_size=4096
)
# Short turns: on a machine that others use, only neighbours compare.
TURN_STEPS = 4
CALIBRATIONS, CALIBRATION_STEPS = 8, 16
PASSIVE = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Result:
    """Milliseconds of delay a layer, and of waiting and computing a step without overlap; tokens/s each way.

    The times and rates are of the least disturbed tenth of the steps, as what else the machine does only adds to them;
    `medians` are the rates of the median steps.
    """

    delay_ms: float
    wait_ms: float
    own_ms: float
    off: float
    on: float
    medians: tuple[float, float]


class FarShard:
    """A shard and the relay in front of it, in a process of their own."""

    def __init__(self, directory: Path, dtype: str, index: int, shards: int, credentials: Credentials) -> None:
        from tests.benchmarks.harness.shards import shard_server

        server = shard_server(directory, index, shards, credentials, NODE, dtype)
        self._relay = Relay(server.endpoint, NODE)

    def endpoint(self) -> Endpoint:
        """Where the relay listens."""
        return self._relay.endpoint

    def hold(self, seconds: float) -> None:
        """Delay each layer's exchange by so much, half of it each way."""
        self._relay.hold_s.update({Kind.EXPERTS: seconds / 2, Kind.PARTIALS: seconds / 2})


class FarExperts(EngineSide):
    """A router in this process; its shards are behind relays."""

    def __init__(self, directory: Path, dtype: str, shards: int, stack: ExitStack) -> None:
        from cluster.config import ModelConfig
        from cluster.planner.model import open_model
        from experts.config import ExpertsConfig, WeightsConfig
        from router_service.config import EngineConfig
        from router_service.engine.builder import build_engine

        credentials, transport = Credentials(secrets.token_bytes(32), bytes(32)), SocketTransport(lanes=2)
        self._workers = [
            stack.enter_context(Worker(FarShard, directory, dtype, n, shards, credentials, environment=PASSIVE))
            for n in range(shards)
        ]
        stack.callback(transport.close)
        hello = Hello(new_incarnation(), 0)
        for index, worker in enumerate(self._workers):
            endpoint = worker.call("endpoint")
            channels = [connect(endpoint, NODE, credentials, TIMEOUT_S, hello=hello) for _ in range(2)]
            for channel in channels:
                channel.set_timeouts(TIMEOUT_S)
            transport.offer(index, *channels)
        model = open_model(ModelConfig(checkpoint=str(directory), dtype=dtype), WeightsConfig("dequantized"))
        settings = EngineConfig(kv_cache_tokens=1 << 16, token_budget=1 << 14, overlap="off", threads=1)
        experts = ExpertsConfig(shards=shards, call_timeout_seconds=TIMEOUT_S)
        super().__init__(build_engine(model.plan, transport, experts, settings, dtype=model.dtype, device=model.device))
        self.layers = len(model.plan.spec.moe_layers)
        self._records: list[StepRecord] = []
        self.engine.observe = self._records.append

    def hold(self, seconds: float) -> None:
        """Delay each layer's exchange."""
        for worker in self._workers:
            worker.call("hold", seconds)

    def turn(self, way: Overlap, steps: int = TURN_STEPS) -> list[StepRecord]:
        """The records of some steps."""
        self.engine.overlap = OverlapPolicy(way)
        self._records.clear()
        for _ in range(steps):
            self.engine.step()
        if any(record.trace.failures for record in self._records):
            raise RuntimeError(f"a shard failed: {self._records[-1].trace.failures}")
        return list(self._records)


def undisturbed(seconds: list[float]) -> float:
    """What the fastest tenth of the steps took at most."""
    return sorted(seconds)[len(seconds) // 10]


def waited_and_own(records: list[StepRecord]) -> tuple[float, float]:
    """Seconds of an undisturbed step that the router waited, and that it computed."""
    waits = [record.trace.stages_ns[Stage.WAIT] / 1e9 for record in records]
    own = [record.duration_ns / 1e9 - wait for record, wait in zip(records, waits, strict=True)]
    return undisturbed(waits), undisturbed(own)


def calibrated(side: FarExperts, delay_s: float) -> float:
    """Return the delay of a layer with which the router waits as long as it computes, unless one is given."""
    side.turn("off", CALIBRATION_STEPS)  # warms up
    delay = delay_s
    for number in range(0 if delay_s else CALIBRATIONS):
        waited, own = waited_and_own(side.turn("off", CALIBRATION_STEPS))
        # By ever smaller corrections, as each measurement is disturbed.
        delay = max(0.0, delay + (own - waited) / side.layers / (1 + number / 4))
        side.hold(delay)
    return delay


def measure(side: FarExperts, batch: int, prompt_tokens: int, delay_s: float, turns: int) -> Result:
    """Calibrate, then take turns: both ways in each, the other one first each time."""
    side.hold(delay_s)
    prompts = [[(7 * n + i) % 256 for i in range(prompt_tokens)] for n in range(batch)]
    side.start(prompts, 2 * turns * TURN_STEPS + (CALIBRATIONS + 1) * CALIBRATION_STEPS)
    delay = calibrated(side, delay_s)
    steps: dict[Overlap, list[StepRecord]] = {"off": [], "on": []}
    order: list[Overlap] = ["off", "on"]
    for _ in range(turns):
        for way in order:
            steps[way] += side.turn(way)
        order.reverse()
    waited, own = waited_and_own(steps["off"])
    seconds = {way: [record.duration_ns / 1e9 for record in records] for way, records in steps.items()}
    off, on = (batch / undisturbed(seconds[way]) for way in ("off", "on"))
    medians = (batch / median(seconds["off"]), batch / median(seconds["on"]))
    return Result(delay * 1e3, waited * 1e3, own * 1e3, off, on, medians)


def text_of(result: Result) -> str:
    """The figures as text."""
    return (
        f"delay {result.delay_ms:.2f} ms a layer; without overlap a step waits {result.wait_ms:.1f} ms and computes "
        f"{result.own_ms:.1f} ms\noff {result.off:.1f}, on {result.on:.1f} tokens/s: x {result.on / result.off:.2f} "
        f"(medians {result.medians[0]:.1f}, {result.medians[1]:.1f}: x {result.medians[1] / result.medians[0]:.2f})"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of each prompt")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="of a layer's exchange; 0 calibrates it")
    parser.add_argument("--turns", type=int, default=60, help=f"of {TURN_STEPS} steps each way")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with ExitStack() as stack:
        directory = args.checkpoint
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write(SHAPE, directory)
        side = FarExperts(directory, args.dtype, args.shards, stack)
        result = measure(side, args.batch, args.prompt, args.delay_ms / 1e3, args.turns)
    print(text_of(result), file=sys.stdout)
    if args.json:
        said: dict[str, Any] = {"machine": machine(), "batch": args.batch, "prompt": args.prompt, **asdict(result)}
        args.json.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()

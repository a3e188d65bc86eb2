"""What missing experts cost in quality under each policy: the bundled model's held-out loss without 1, 2 and 4 of 16.

    python -m tests.benchmarks.bench_fallback
    python -m tests.benchmarks.bench_fallback --windows 1000 --sets 5

The text, the windows and the figure are those of bench_quality. An expert is missing in every layer, as it is when the
only shard that holds it has died; which ones are, is drawn, and all policies go without the same ones. `wait` is the
undisturbed model: it computes nothing until the experts are back.
"""

from __future__ import annotations

import argparse
import os
import random
from statistics import mean
from typing import Any, Self, cast

import torch

from cluster.config import BUNDLED, ModelConfig
from cluster.planner.model import open_model
from cluster.table import table
from experts.config import ExpertsConfig, WeightsConfig
from experts.transport.base import Transport
from router_service.engine.builder import local_shards
from router_service.protocol.fallback import Fallback
from tests.benchmarks.bench_quality import held_out_tokens
from tests.benchmarks.traffic.stepped_engine import SteppedEngine
from tests.support.lossy import Lossy

COUNTS = (1, 2, 4)
POLICIES = (Fallback.DROP, Fallback.NEXT_BEST)
SEED = 13


class BereftModel:
    """The bundled model, each expert on a shard of its own, of which `transport` loses any; a context manager."""

    def __init__(self) -> None:
        model = open_model(ModelConfig(dtype="float32"), WeightsConfig("dequantized"))
        self.experts = model.plan.spec.gate.experts
        self.transport = Lossy(local_shards(model.plan, ExpertsConfig(shards=self.experts), model.dtype, model.device))
        config: dict[str, Any] = {"dtype": "float32", "prefix_caching": False, "overlap": "off"}
        self._engine = SteppedEngine(BUNDLED, cast(Transport, self.transport), self.experts, **config)

    def loss(self, tokens: list[int], windows: int, policy: Fallback) -> tuple[float, int]:
        """Nats a token, and how many tokens were predicted: in at most so many windows, spread evenly over the text."""
        total, count, length = 0.0, 0, self._engine.context - 1  # a request has an answer
        starts = range(0, len(tokens) - 1, length - 1)
        for start in starts[:: -(-len(starts) // windows)]:
            scores = self._scored(tokens[start : start + length], policy)
            total, count = total - sum(scores), count + len(scores)
        return total / count, count

    def _scored(self, tokens: list[int], policy: Fallback) -> list[float]:
        """The log-probability of each token but the first."""
        key = self._engine.submit(tokens, 1, prompt_logprobs=0)
        self._engine.engine.requests[key].fallback = policy
        scores: list[float] = []
        while not self._engine.engine.idle():
            for event in self._engine.step():
                scores += [score.chosen.logprob for score in event.prompt_logprobs or []]
        return scores[1:]  # nothing predicts the first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.transport.close()


def losses(windows: int, sets: int) -> str:
    """The table: each policy's loss without so many experts, and the least and the most that a set of them costs."""
    tokens, drawn = held_out_tokens(), random.Random(SEED)
    with BereftModel() as model:
        plain, count = model.loss(tokens, windows, Fallback.WAIT)
        rows = [["0 (wait)", "", f"{plain:.4f}", "", ""]]
        for missing in COUNTS:
            dead = [set(drawn.sample(range(model.experts), missing)) for _ in range(sets)]
            for policy in POLICIES:
                found = []
                for model.transport.dead in dead:
                    found.append(model.loss(tokens, windows, policy)[0])
                print(f"{missing} missing, {policy.value}: {mean(found):.4f} nats/token", flush=True)
                spread = f"{min(found) / plain - 1:+.2%} to {max(found) / plain - 1:+.2%}"
                more = f"{mean(found) / plain - 1:+.2%}"
                rows.append([f"{missing} of {model.experts}", policy.value, f"{mean(found):.4f}", more, spread])
    return table(("experts missing", "policy", f"nats/token ({count} tokens)", "more", f"of {sets} sets"), rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=49, help="at most so many windows of held-out text")
    parser.add_argument("--sets", type=int, default=3, help="so many drawn sets of missing experts of each size")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(losses(args.windows, args.sets))


if __name__ == "__main__":
    main()

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


def one_shard_each() -> tuple[Transport, int]:
    """The bundled model's experts, each on a shard of its own."""
    model = open_model(ModelConfig(dtype="float32"), WeightsConfig("dequantized"))
    experts = model.plan.spec.gate.experts
    return local_shards(model.plan, ExpertsConfig(shards=experts), model.dtype, model.device), experts


def loss(engine: SteppedEngine, tokens: list[int], windows: int, policy: Fallback) -> tuple[float, int]:
    """Nats a token, and how many tokens were predicted: in at most so many windows, spread evenly over the text."""
    total, count, length = 0.0, 0, engine.context - 1  # a request has an answer
    starts = range(0, len(tokens) - 1, length - 1)
    for start in starts[:: -(-len(starts) // windows)]:
        key = engine.submit(tokens[start : start + length], 1, prompt_logprobs=0)
        engine.engine.requests[key].fallback = policy
        while not engine.engine.idle():
            scores = [score.chosen.logprob for event in engine.step() for score in event.prompt_logprobs or []]
            total, count = total - sum(scores), count + len(scores)
        count -= 1  # nothing predicts the first, whose score is 0
    return total / count, count


def losses(windows: int, sets: int) -> str:
    """The table: each policy's loss without so many experts, and the least and the most that a set of them costs."""
    tokens, (inner, experts), drawn = held_out_tokens(), one_shard_each(), random.Random(SEED)
    transport = Lossy(inner)
    with SteppedEngine(BUNDLED, transport, experts, dtype="float32", prefix_caching=False, overlap="off") as engine:  # type: ignore[arg-type]
        plain, count = loss(engine, tokens, windows, Fallback.WAIT)
        rows = [["0 (wait)", "", f"{plain:.4f}", "", ""]]
        for missing in COUNTS:
            dead = [set(drawn.sample(range(experts), missing)) for _ in range(sets)]
            for policy in POLICIES:
                found = []
                for transport.dead in dead:
                    found.append(loss(engine, tokens, windows, policy)[0])
                more = mean(found) / plain - 1
                spread = f"{min(found) / plain - 1:+.2%} to {max(found) / plain - 1:+.2%}"
                rows.append([f"{missing} of {experts}", policy.value, f"{mean(found):.4f}", f"{more:+.2%}", spread])
                print(f"{missing} missing, {policy.value}: {mean(found):.4f} nats/token", flush=True)
    heads = ("experts missing", "policy", f"nats/token ({count} tokens)", "more", f"of {sets} sets")
    return table(heads, rows)


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

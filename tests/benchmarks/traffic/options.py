"""Rows `penalty` and `overlap`: what a setting costs or gives."""

import time
from contextlib import ExitStack

from tests.benchmarks import bench_overlap
from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.traffic.figure import Figure, ratios
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

BATCH, CONTEXT, STEPS, PENALTY = 32, 900, 40, 1.05
WARM_STEPS = 2
OVERLAP_BATCH, OVERLAP_PROMPT = 16, 64


def decode_rate(side: SteppedEngine, prompts: list[Tokens], penalty: float) -> float:
    """Tokens a second of a whole batch that decodes."""
    new_tokens = WARM_STEPS + STEPS + len(prompts)
    keys = [side.submit(tokens, new_tokens, repetition_penalty=penalty) for tokens in prompts]
    side.until_first_tokens(keys)
    for _ in range(WARM_STEPS):
        side.step()
    begun = time.perf_counter()
    for _ in range(STEPS):
        side.step()
    seconds = time.perf_counter() - begun
    side.give_up()
    return len(prompts) * STEPS / seconds


def penalty(plan: Plan) -> list[Figure]:
    """Batches with a repetition penalty in turns with batches without. From the second on the prompts are cached."""
    prompts = [prompt(CONTEXT, "penalty", n) for n in range(BATCH)]
    with SteppedEngine(plan.bundled, kv_cache_tokens=BATCH * 1024) as side:
        pairs = [(decode_rate(side, prompts, PENALTY), decode_rate(side, prompts, 1.0)) for _ in range(1 + plan.rounds)]
    what = f"tokens/s with a repetition penalty / without, batch {BATCH}, {CONTEXT} tokens of context"
    return [Figure("penalty", what, ratios(*zip(*pairs[1:], strict=True)), 0.97, at_least=True)]


def overlap(plan: Plan) -> list[Figure]:
    """Two batches in flight over a delayed link, as `bench_overlap` measures them."""
    with ExitStack() as stack:
        side = bench_overlap.FarExperts(plan.large, "auto", 2, stack)
        seen = bench_overlap.measure(side, OVERLAP_BATCH, OVERLAP_PROMPT, 0.0, 1 + plan.rounds)
    what = f"tokens/s with overlap / without, wait as long as the router's own compute, batch {OVERLAP_BATCH}"
    note = f"without overlap a step waited {seen.wait_ms / seen.own_ms:.2f} times as long as it computed"
    return [Figure("overlap", what, tuple(seen.ratios[1:]), 1.25, at_least=True, note=note)]

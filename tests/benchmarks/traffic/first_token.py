"""Rows `ttft` and `turns`: the time to the first token, among many streams and in a conversation."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.traffic.figure import Figure, ratios, tail
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

STREAMS, REQUESTS = 128, 4
PROMPTS, ANSWERS = (32, 128), (16, 48)
TURNS, NEW_TOKENS, ANSWER, BLOCK = 5, 200, 4, 16


def load(side: SteppedEngine, seed: int, requests: int = REQUESTS) -> tuple[list[float], list[float]]:
    """Streams that begin at once, each with its next request as soon as an answer ends.

    Returns:
        Seconds to the first token: of the streams' first requests, which come as one burst, and of all later ones.
    """
    draw = random.Random(seed)
    arrived, left, first, later = dict[int, float](), dict[int, int](), list[float](), list[float]()

    def ask(more: int) -> None:
        key = side.submit(prompt(draw.randint(*PROMPTS), draw.random()), draw.randint(*ANSWERS))
        arrived[key], left[key] = time.perf_counter(), more

    for _ in range(STREAMS):
        ask(requests - 1)
    while not side.engine.idle():
        events = side.step()
        now = time.perf_counter()
        for event in events:
            if event.key in arrived:
                (first if left[event.key] == requests - 1 else later).append(now - arrived.pop(event.key))
            if event.finish is not None and left[event.key]:
                ask(left[event.key] - 1)
    return first, later


def ttft(plan: Plan) -> list[Figure]:
    """Many streams on the bundled model."""
    with SteppedEngine(plan.bundled, kv_cache_tokens=65536) as side:
        seen = [load(side, number) for number in range(1 + plan.rounds)][1:]
    what = f"99th percentile of the time to the first token / median, {STREAMS} streams:"
    bursts, later = zip(*seen, strict=True)
    return [
        Figure("ttft", f"{what} all at once", tuple(map(tail, bursts)), 5.0),
        Figure("ttft", f"{what} later requests", tuple(map(tail, later)), 5.0),
    ]


@dataclass(frozen=True)
class Turn:
    """Tokens of the prompt that were computed, and seconds to the first token."""

    computed: int
    seconds: float


def conversation(side: SteppedEngine, seed: object) -> list[Turn]:
    """Turns that resend all before, the answers included, and `NEW_TOKENS` tokens that are new."""
    history: Tokens = []
    turns = []
    for number in range(TURNS):
        tokens = history + prompt(NEW_TOKENS * (number + 1) - len(history), seed, number)
        side.records.clear()
        begun = time.perf_counter()
        key = side.submit(tokens, ANSWER)
        side.until_first_tokens([key])
        seconds = time.perf_counter() - begun
        (request,) = side.engine.requests
        side.run_out()
        turns.append(Turn(sum(record.prompt_tokens for record in side.records), seconds))
        history = list(request.tokens)
    return turns


def turns(plan: Plan) -> list[Figure]:
    """A conversation on each model."""
    return [
        figure
        for name, directory in (("bundled", plan.bundled), ("Qwen3-like", plan.large))
        for figure in _turns(name, directory, plan.rounds)
    ]


def _turns(name: str, directory: Path, rounds: int) -> list[Figure]:
    with SteppedEngine(directory, kv_cache_tokens=4096) as side:
        talks = [conversation(side, number) for number in range(1 + 2 * rounds)][1:]
    last = TURNS - 1
    slower = ratios([talk[last].seconds for talk in talks], [talk[0].seconds for talk in talks])
    computed = tuple(float(talk[last].computed) for talk in talks)
    note = f"tokens computed in each turn, {name}: {[median(talk[n].computed for talk in talks) for n in range(TURNS)]}"
    return [
        Figure("turns", f"tokens computed in turn {TURNS}, {name}", computed, NEW_TOKENS + BLOCK, note=note),
        Figure("turns", f"time to the first token of turn {TURNS} / of turn 1, {name}", slower, 1.3),
    ]

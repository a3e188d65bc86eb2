"""Rows `chats` and `half`: how many requests share a cache, and what a cache that is too small costs."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.traffic.figure import Figure, ratios
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

CHATS, CHAT_CACHE, CHAT_PROMPT, CHAT_STEPS = 16, 8192, 200, 64
STREAMS, PROMPT, NEW_TOKENS, BLOCK = 32, 128, 256, 16


def together(side: SteppedEngine, chats: int, tokens: int, steps: int) -> int:
    """Of chats that set no max_tokens: how many decode in every one of `steps` steps, once all could have begun."""
    longest = side.engine.scheduler.longest
    for number in range(chats):
        side.submit(prompt(tokens, "chat", number), longest - tokens)
    for _ in range(2 * chats):  # more steps than it takes to read the prompts
        side.step()
    side.records.clear()
    for _ in range(steps):
        side.step()
    side.give_up()
    return min(record.decode_tokens for record in side.records)


def chats(plan: Plan) -> list[Figure]:
    """Chats without max_tokens in a cache of two contexts."""
    with SteppedEngine(plan.large, kv_cache_tokens=CHAT_CACHE) as side:
        running = together(side, CHATS, CHAT_PROMPT, CHAT_STEPS)
    what = f"of {CHATS} chats without max_tokens: those that run together, cache of {CHAT_CACHE:,} tokens"
    return [Figure("chats", what, (float(running),), CHATS, at_least=True)]


@dataclass(frozen=True)
class Burst:
    """Tokens a second of all streams together, and the tokens of each."""

    rate: float
    tokens: list[Tokens]


def burst(side: SteppedEngine, seed: object) -> Burst:
    """All streams at once, to their ends."""
    begun = time.perf_counter()
    keys = [side.submit(prompt(PROMPT, seed, n), NEW_TOKENS) for n in range(STREAMS)]
    drawn = side.run_out()
    seconds = time.perf_counter() - begun
    return Burst(STREAMS * NEW_TOKENS / seconds, [drawn[key] for key in keys])


def half(plan: Plan) -> list[Figure]:
    """A cache of half the need, in turns with one that is large enough.

    Equal tokens are asked for in float32: in bfloat16 the rows that share a product round a near tie either way.
    """
    speed, exact = turns(plan, "auto", 1 + plan.rounds), turns(plan, "float32", 1)
    rates = ratios([one.rate for one in speed.short[1:]], [one.rate for one in speed.enough[1:]])
    what = f"tokens/s of {STREAMS} streams with a cache of half the need / with one of all"
    note = f"{speed.preemptions:.0f} preemptions a round; in bfloat16 {median(speed.equal):.2f} of the tokens are equal"
    return [
        Figure("half", what, rates, 0.7, at_least=True, note=note),
        Figure("half", "share of equal tokens, float32", exact.equal, 1.0, at_least=True),
    ]


@dataclass(frozen=True)
class Turns:
    """Bursts with either cache, round by round, and the preemptions of a round."""

    short: list[Burst]
    enough: list[Burst]
    preemptions: float

    @property
    def equal(self) -> tuple[float, ...]:
        """The share of equal tokens in each round."""
        return tuple(equal_share(a.tokens, b.tokens) for a, b in zip(self.short, self.enough, strict=True))


def turns(plan: Plan, dtype: str, rounds: int) -> Turns:
    """Bursts of the same prompts with both caches."""
    need = STREAMS * (PROMPT + NEW_TOKENS + BLOCK)
    seen = Turns([], [], 0.0)
    with ExitStack() as stack:
        enough, short = (
            stack.enter_context(SteppedEngine(plan.bundled, dtype=dtype, kv_cache_tokens=size))
            for size in (need, need // 2)
        )
        for number in range(rounds):
            seen.enough.append(burst(enough, number))
            seen.short.append(burst(short, number))
        return replace(seen, preemptions=short.engine.scheduler.preemptions / rounds)


def equal_share(ours: list[Tokens], theirs: list[Tokens]) -> float:
    """The share of tokens that stand at the same place in both."""
    pairs = [(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)

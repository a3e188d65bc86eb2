"""Streams that go on, one after the other, while something is done to the cluster; each answer is known beforehand."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from router_service.client.client import Client

MOST_WAIT_S = 300.0


@dataclass
class Flows:
    """What has come of the streams since `begun`.

    `gaps` has the pauses between two messages of a stream: when one ended and its seconds. `degraded` counts tokens
    that were computed without all of their experts.
    """

    begun: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    answers: int = 0
    tokens: int = 0
    degraded: int = 0
    differ: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rate(self) -> float:
        """Tokens a second of all streams."""
        return self.tokens / ((self.ended or time.perf_counter()) - self.begun)

    def gap(self, share: float = 1.0) -> float:
        """The longest pause in seconds, or a quantile of the pauses."""
        ordered = sorted(seconds for _, seconds in self.gaps)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def prompts_of(vocabulary: int, count: int, tokens: int = 24) -> list[list[int]]:
    """The same random prompts for every run."""
    draw = random.Random(0)
    return [[draw.randrange(vocabulary) for _ in range(tokens)] for _ in range(count)]


async def references(client: Client, prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
    """The undisturbed answers, one prompt after the other."""
    answers = []
    for prompt in prompts:
        stream = client.generate(tokens=prompt, max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        answers.append([token async for response in stream for token in response.token_ids])
    return answers


@asynccontextmanager
async def flowing(
    target: str, streams: int, prompts: Sequence[list[int]], expected: Sequence[list[int]]
) -> AsyncIterator[Flows]:
    """Keep so many streams open within the block, each on a connection of its own; their last answers are waited for.

    A stream counts as lost if it breaks for good: one whose Front is lost is resumed by the client library.
    """
    flows = Flows()
    workers = [asyncio.create_task(_flow(target, flows, number, prompts, expected)) for number in range(streams)]
    try:
        yield flows
        flows.enough.set()
        await asyncio.wait_for(asyncio.gather(*workers), MOST_WAIT_S)
        flows.ended = time.perf_counter()
    finally:
        for worker in workers:
            worker.cancel()


async def _flow(
    target: str, flows: Flows, number: int, prompts: Sequence[list[int]], expected: Sequence[list[int]]
) -> None:
    async with Client(target) as client:
        turn = number
        while not flows.enough.is_set():
            which = turn % len(prompts)
            await _one(client, flows, prompts[which], expected[which])
            turn += 7  # not the neighbour's next prompt


async def _one(client: Client, flows: Flows, prompt: list[int], expected: list[int]) -> None:
    got: list[int] = []
    options = {"max_tokens": len(expected), "temperature": 0.0, "ignore_eos": True, "timeout": MOST_WAIT_S}
    try:
        last = 0.0
        async for response in client.generate(tokens=prompt, **options):  # type: ignore[arg-type]
            now = time.perf_counter()
            if last:
                flows.gaps.append((now, now - last))
            last = now
            got += response.token_ids
            flows.tokens += len(response.token_ids)
            flows.degraded += len(getattr(response, "degraded_token_indexes", ()))
    except grpc.aio.AioRpcError as error:
        flows.lost.append(f"{error.code().name} after {len(got)} tokens: {error.details()}")
        await asyncio.sleep(0.2)
        return
    flows.answers += 1
    if got != expected:
        same = [a == b for a, b in zip(got, expected, strict=False)]
        at = same.index(False) if False in same else len(same)
        flows.differ.append(f"token {at} of {len(expected)}")

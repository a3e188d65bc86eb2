"""The demo's end: a shard is killed under streams, and what came of them."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_service.client.client import Client
    from router_service.client.fields import SamplingFields

STREAMS = 16
MAX_TOKENS = 96
# Every stream has so many tokens when the shard is killed.
UNDER_WAY = 16
CALL_SECONDS = 60.0


@dataclass
class Answer:
    """A stream's tokens, and the longest pause between two messages."""

    tokens: list[int] = field(default_factory=list)
    pause_s: float = 0.0


async def show_failure(client: "Client", prompts: Sequence[str]) -> None:
    """Run streams undisturbed, then the same ones while the process of shard 0 is killed, and compare.

    Raises:
        grpc.aio.AioRpcError: a stream was lost.
    """
    from cluster.serve.own.vigil import without_rays_reports  # imports Ray

    calm = await _answers(client, prompts, asyncio.Event())
    victim = next(shard for shard in (await client.cluster()).shards if shard.shard == 0)
    print(f"\n{STREAMS} streams again; shard 0 (pid {victim.pid}) is killed under them ...", flush=True)
    under_way = asyncio.Event()
    running = asyncio.create_task(_answers(client, prompts, under_way))
    await asyncio.wait([running, asyncio.create_task(under_way.wait())], return_when=asyncio.FIRST_COMPLETED)
    with without_rays_reports():
        os.kill(victim.pid, signal.SIGKILL)
        struck = await running
    print(verdict(calm, struck), flush=True)


def verdict(calm: Sequence[Answer], struck: Sequence[Answer]) -> str:
    """One line: how many streams ended, how many of them with the tokens of the undisturbed run, the longest pause."""
    same = sum(one.tokens == other.tokens for one, other in zip(calm, struck, strict=True))
    pauses = [max(answer.pause_s for answer in answers) * 1e3 for answers in (calm, struck)]
    return (
        f"{len(struck)} of {len(calm)} streams complete, {same} with the same tokens as undisturbed; "
        f"longest pause {pauses[1]:.0f} ms, undisturbed {pauses[0]:.0f} ms"
    )


async def _answers(client: "Client", prompts: Sequence[str], under_way: asyncio.Event) -> list[Answer]:
    answers = [Answer() for _ in range(STREAMS)]

    def note() -> None:
        if min(len(answer.tokens) for answer in answers) >= UNDER_WAY:
            under_way.set()

    calls = [_read(client, prompts[n % len(prompts)], n, answer, note) for n, answer in enumerate(answers)]
    await asyncio.gather(*calls)
    return answers


async def _read(client: "Client", prompt: str, seed: int, answer: Answer, note: Callable[[], None]) -> None:
    last = 0.0
    sampling: SamplingFields = {"max_tokens": MAX_TOKENS, "seed": seed, "ignore_eos": True}
    async for response in client.generate(prompt=prompt, timeout=CALL_SECONDS, **sampling):
        now = time.monotonic()
        answer.pause_s = max(answer.pause_s, now - last if last else 0.0)
        last = now
        answer.tokens += response.token_ids
        note()

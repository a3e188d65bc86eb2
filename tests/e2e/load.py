"""Clients that ask again and again while something happens to the server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from router_service.client.client import Client

RETRY_SECONDS = 0.2


@dataclass
class Load:
    """What has come of the requests: whole answers, refusals before the first token (when, why), streams that broke."""

    answers: list[tuple[int, list[int]]] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    running: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def load(target: str, streams: int, prompts: list[list[int]], max_tokens: int) -> AsyncIterator[Load]:
    """Keep so many streams open within the block, each on a client of its own; their last answers are waited for.

    Who is refused asks again a little later, as clients should: only UNAVAILABLE before the first token counts so.
    """
    made = Load()
    workers = [asyncio.create_task(_ask(target, made, number, prompts, max_tokens)) for number in range(streams)]
    try:
        yield made
        made.enough.set()
        await asyncio.wait_for(asyncio.gather(*workers), 200)
    finally:
        for worker in workers:
            worker.cancel()


async def _ask(target: str, made: Load, number: int, prompts: list[list[int]], max_tokens: int) -> None:
    async with Client(target) as client:
        for turn in range(number, 1_000_000, 16):
            which = turn % len(prompts)
            while not await _one(client, made, which, prompts[which], max_tokens):
                await asyncio.sleep(RETRY_SECONDS)
            if made.enough.is_set():
                return


async def _one(client: Client, made: Load, which: int, prompt: list[int], max_tokens: int) -> bool:
    tokens: list[int] = []
    finish = 0
    try:
        async for response in client.generate(tokens=prompt, max_tokens=max_tokens, temperature=0.0, ignore_eos=True):
            made.running += not tokens
            tokens += response.token_ids
            finish = response.finish_reason
        made.running -= 1
        made.answers.append((which, tokens))
        if len(tokens) < max_tokens:
            made.lost.append(f"ended with {finish} after {len(tokens)} tokens")
    except grpc.aio.AioRpcError as error:
        made.running -= bool(tokens)
        if tokens or error.code() is not grpc.StatusCode.UNAVAILABLE:
            made.lost.append(f"{error.code().name} after {len(tokens)} tokens: {error.details()}")
        else:
            made.refused.append((time.monotonic(), str(error.details())))
            return False
    return True

"""What a client gets of a stream, and a server with the oracle that knows what it should be."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from tests.e2e.server import Server


@dataclass
class Served:
    """A server and the oracle of what it serves."""

    server: Server
    oracle: Any
    checkpoint: Path


async def collect(client: Client, **request: object) -> list[pb.GenerateResponse]:
    """All responses of a stream."""
    return [response async for response in client.generate(timeout=200, **request)]  # type: ignore[arg-type]


def tokens_of(responses: list[pb.GenerateResponse]) -> list[int]:
    """The tokens of all responses, in order."""
    return [token for response in responses for token in response.token_ids]


async def streamed(client: Client, prompt: list[int], max_tokens: int, started: asyncio.Event) -> list[int]:
    """The tokens of a greedy stream that must not break; `started` is set while it runs."""
    tokens: list[int] = []
    async for response in client.generate(tokens=prompt, max_tokens=max_tokens, temperature=0.0, timeout=200):
        tokens += response.token_ids
        if len(tokens) > 10:
            started.set()
    return tokens

"""What a client gets of a stream, and a server with the oracle that knows what it should be."""

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

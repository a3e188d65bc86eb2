"""The same streams over gRPC and over HTTP, in turns: what the face costs the engine's throughput."""

import asyncio
import time

from router_service.client.client import Client
from tests.benchmarks.http.raw_client import Stream, read

STREAMS = 32
TOKENS = 192
PROMPT = "def read_file(path):"


async def over_grpc(target: str) -> float:
    """Tokens per second of all streams."""
    async with Client(target) as client:
        began = time.monotonic()
        counts = await asyncio.gather(*(_grpc(client, seed) for seed in range(STREAMS)))
        return sum(counts) / (time.monotonic() - began)


async def over_http(port: int, model: str) -> float:
    """Tokens per second of all streams."""
    began = time.monotonic()
    streams = await asyncio.gather(*(_http(port, model, seed) for seed in range(STREAMS)))
    assert all(stream.complete for stream in streams), [stream.events for stream in streams]
    return STREAMS * TOKENS / (time.monotonic() - began)


async def rows(target: str, port: int, model: str, rounds: int) -> list[str]:
    """The table, one line a row; the sides take turns, and who begins changes."""
    speeds: dict[str, list[float]] = {"gRPC": [], "HTTP": []}
    await over_grpc(target)
    for number in range(rounds):
        for name in ("gRPC", "HTTP") if number % 2 else ("HTTP", "gRPC"):
            speed = await over_grpc(target) if name == "gRPC" else await over_http(port, model)
            speeds[name].append(speed)
    best = {name: sorted(values)[len(values) // 2] for name, values in speeds.items()}
    ratio = best["HTTP"] / best["gRPC"]
    row = f"| {STREAMS} | {best['gRPC']:.0f} | {best['HTTP']:.0f} | {ratio:.3f} |"
    return ["| streams | gRPC tokens/s | HTTP tokens/s | ratio |", "|---|---|---|---|", row]


async def _grpc(client: Client, seed: int) -> int:
    count = 0
    async for response in client.generate(PROMPT, max_tokens=TOKENS, seed=seed, ignore_eos=True, resume=False):
        count += len(response.token_ids)
    assert count == TOKENS
    return count


async def _http(port: int, model: str, seed: int) -> Stream:
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "seed": seed, "ignore_eos": True, "stream": True}
    return await read(port, "/v1/completions", body)

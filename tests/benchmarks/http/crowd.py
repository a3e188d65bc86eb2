"""A thousand streams over HTTP, half of which hardly read: what the Front keeps in memory, and whether others wait."""

import asyncio
import statistics

import psutil

from tests.benchmarks.http.raw_client import Stream, read

STREAMS = 1000
SLOW = 500
TOKENS = 64
# Of a slow reader, before each line: over a minute for its whole answer.
DELAY_S = 1.0
LOOK_S = 0.5


async def rows(port: int, model: str, front: psutil.Process) -> list[str]:
    """The table, one line a row."""
    before = front.memory_info().rss
    peak = asyncio.create_task(_peak(front))
    slow = [asyncio.create_task(_stream(port, model, seed, DELAY_S)) for seed in range(SLOW)]
    fast = await asyncio.gather(*(_stream(port, model, SLOW + seed, 0.0) for seed in range(STREAMS - SLOW)))
    lost = sum(task.done() and not task.result().complete for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    peak.cancel()
    most = max(await peak)
    complete = sum(stream.complete for stream in fast)
    pauses = sorted(stream.pause_s for stream in fast)
    row = (
        f"| {STREAMS} | {complete} of {len(fast)} | {statistics.median(pauses):.2f} s, {pauses[-1]:.2f} s |"
        f" {(most - before) / 2**20:.0f} MiB | {lost} |"
    )
    head = (
        "| streams | fast ones complete | longest pause of a fast one: median, most | Front's growth | slow ones lost |"
    )
    return [head, "|---|---|---|---|---|", row]


async def _stream(port: int, model: str, seed: int, delay_s: float) -> Stream:
    body = {"model": model, "prompt": "import os", "max_tokens": TOKENS, "seed": seed, "ignore_eos": True}
    return await read(port, "/v1/completions", body | {"stream": True, "logprobs": 5}, delay_s=delay_s)


async def _peak(process: psutil.Process) -> list[int]:
    seen = [process.memory_info().rss]
    try:
        while True:
            await asyncio.sleep(LOOK_S)
            seen.append(process.memory_info().rss)
    except asyncio.CancelledError:
        return seen

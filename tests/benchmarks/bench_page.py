"""What open live pages cost: decode tokens/s of a real cluster with none, one and ten of them, in one run.

    python -m tests.benchmarks.bench_page

The bundled model on two shards, several streams at once over gRPC; each round measures every number of pages in turn,
so that a noisy neighbour hits all of them. A page here is a reader of /live, as the browser's is, on the same machine.
"""

import argparse
import asyncio
import re
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median

import aiohttp

from router_service.client.client import Client
from tests.e2e.server import serving

PAGES = [1, 10]
STREAMS, TOKENS, PROMPT = 8, 400, "def read_file(path):"


async def rate(target: str) -> float:
    """Tokens per second of all streams together."""
    async with Client(target) as client:
        begun = time.perf_counter()
        counts = await asyncio.gather(*(_stream(client, seed) for seed in range(STREAMS)))
        return sum(counts) / (time.perf_counter() - begun)


async def _stream(client: Client, seed: int) -> int:
    request = {"prompt": PROMPT, "max_tokens": TOKENS, "seed": seed, "temperature": 1.0, "ignore_eos": True}
    return sum([len(response.token_ids) async for response in client.generate(timeout=120, **request)])  # type: ignore[arg-type]


async def _look(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url + "live") as response:
        response.raise_for_status()
        async for _ in response.content.iter_any():
            pass


async def measured(target: str, url: str, pages: int) -> float:
    """The rate with so many pages open for a moment before and all the while."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        readers = [asyncio.create_task(_look(session, url)) for _ in range(pages)]
        await asyncio.sleep(1.0)
        found = await rate(target)
        for reader in readers:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        return found


async def run(target: str, url: str, rounds: int, numbers: list[int]) -> dict[int, list[float]]:
    """Rates by number of pages, none among them; the order turns round in every second round."""
    await rate(target)  # warms up
    rates: dict[int, list[float]] = {pages: [] for pages in sorted({0, *numbers})}
    for number in range(rounds):
        for pages in list(rates) if number % 2 == 0 else list(rates)[::-1]:
            rates[pages].append(await measured(target, url, pages))
    return rates


def main() -> None:
    """Print tokens/s and the ratios to no page, paired by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pages", type=int, nargs="+", default=PAGES, help="numbers of open pages (1 10)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, serving("--shards", "2", log=Path(directory) / "log") as server:
        match = re.search(r"http=(http://\S+)", server.log.read_text())
        assert match is not None
        rates = asyncio.run(run(server.target, match[1], args.rounds, args.pages))
    for pages, found in rates.items():
        ratios = [with_pages / without for with_pages, without in zip(found, rates[0], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{pages:2d} pages: {median(found):7.0f} tokens/s, ratio {median(ratios):.3f} ({spread})")


if __name__ == "__main__":
    main()

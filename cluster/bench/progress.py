"""A line on a terminal that is drawn anew while a run lasts."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

DRAWN_EVERY_SECONDS = 0.25


@asynccontextmanager
async def shown(line: Callable[[], str]) -> AsyncIterator[None]:
    """Show `line()` on stderr within the block; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    task = asyncio.create_task(_draw_forever(line))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        _write("")


async def _draw_forever(line: Callable[[], str]) -> None:
    while True:
        _write(line()[: shutil.get_terminal_size().columns - 1])
        await asyncio.sleep(DRAWN_EVERY_SECONDS)


def _write(text: str) -> None:
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

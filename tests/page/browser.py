"""Headless Chromium, and a page that remembers what went wrong on it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Page, Request, async_playwright, expect

from tests.e2e.server import Server
from tests.support.packages import program

WIDE, NARROW = 1280, 400
WAIT_MS = 60_000
PROMPT = "def read_file(path):"
expect.set_options(timeout=WAIT_MS)  # five seconds, the default, are short on a busy machine


@dataclass
class Watched:
    """A page, and its console errors and failed requests."""

    page: Page
    faults: list[str] = field(default_factory=list)

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        wider: int = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return wider


@asynccontextmanager
async def opened(url: str, width: int = WIDE, scheme: str = "light", **options: Any) -> AsyncIterator[Watched]:
    """A fresh browser on `url`."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program("chromium", "chromium"), args=["--no-sandbox"]
        )
        context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)  # type: ignore[arg-type]
        context.set_default_timeout(WAIT_MS)
        page = await context.new_page()
        watched = Watched(page)
        page.on("console", lambda message: watched.faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: watched.faults.append(str(error)))
        page.on("requestfailed", lambda request: watched.faults.extend(_failure(request)))
        await page.goto(url)
        try:
            yield watched
        finally:
            await browser.close()


def _failure(request: Request) -> list[str]:
    """What is wrong with a request that failed.

    Of a stream that a script has read to its end Chromium says aborted when the script is faster than its own word of
    completion; what was read is whole, which the tests look at themselves.
    """
    read_to_its_end = request.url.endswith("/api/generate") and request.failure == "net::ERR_ABORTED"
    return [] if read_to_its_end else [f"{request.url}: {request.failure}"]


def url_of(server: Server) -> str:
    match = re.search(r"http=(https?://\S+)", server.log.read_text())
    assert match is not None
    return match[1]


async def generate(watched: Watched, tokens: int, seed: int) -> None:
    page = watched.page
    await page.fill("#prompt", PROMPT)
    await page.fill("#max-tokens", str(tokens))
    await page.fill("#seed", str(seed))
    await page.click("#start")
    await expect(page.locator("#generate-status")).to_contain_text("Ended", timeout=WAIT_MS)

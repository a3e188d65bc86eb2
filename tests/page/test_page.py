"""The live page in headless Chromium, on a real cluster with the bundled model."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from router_service.client import Client
from tests.e2e.server import Server, held, serving
from tests.page.browser import NARROW, WAIT_MS, WIDE, Watched, opened

pytestmark = [pytest.mark.e2e, pytest.mark.ray]

PROMPT = "def read_file(path):"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("--shards", "2", log=tmp_path_factory.mktemp("page") / "log") as running:
        yield running


def url_of(server: Server) -> str:
    match = re.search(r"http=(https?://\S+)$", server.log.read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


async def generate(watched: Watched, tokens: int, seed: int) -> None:
    page = watched.page
    await page.fill("#prompt", PROMPT)
    await page.fill("#max-tokens", str(tokens))
    await page.fill("#seed", str(seed))
    await page.click("#start")
    await expect(page.locator("#generate-status")).to_contain_text("Ended", timeout=WAIT_MS)


async def test_a_generation_is_watched_to_its_end(server: Server) -> None:
    """Its text, tokens and routing are those that gRPC returns for the same seed."""
    async with Client(server.target) as client:
        request = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0.7, "seed": 5, "return_routing": True}
        answer = [response async for response in client.generate(timeout=60, **request)]  # type: ignore[arg-type]
    text = "".join(response.text for response in answer)
    routing = [position for response in answer for position in response.routing]
    async with opened(url_of(server)) as watched:
        await generate(watched, 24, seed=5)
        page = watched.page
        shown = await page.locator("#tokens .token:not(.given):not(.special)").all_text_contents()
        assert "".join(shown) == text
        # The keyboard alone: from the last token of the prompt on.
        await page.focus("#tokens")
        await page.keyboard.press("Home")
        for number in (0, 1, 2):
            await check_layers(watched, routing[number].layers)
            await page.keyboard.press("ArrowRight")
        assert watched.faults == []


async def check_layers(watched: Watched, expected: object) -> None:
    rows = watched.page.locator("#routing .layer")
    assert await rows.count() == len(expected)  # type: ignore[arg-type]
    for number, layer in enumerate(expected):  # type: ignore[var-annotated,arg-type]
        row = rows.nth(number)
        assert await row.get_attribute("data-layer") == str(layer.layer)
        chips = await row.locator(".chosen li[data-shard]").all()
        shown = {
            (int(await chip.get_attribute("data-expert") or -1), int(await chip.get_attribute("data-shard") or -1))
            for chip in chips
        }
        assert shown == set(zip(layer.experts, layer.shards, strict=True))
        assert await row.locator(".scores li").count() == 16
        assert await row.locator(".scores li.chosen").count() == len(layer.experts)


async def test_a_generation_can_be_stopped(server: Server) -> None:
    async with opened(url_of(server)) as watched:
        page = watched.page
        await page.fill("#max-tokens", "900")
        await page.fill("#temperature", "2")
        await page.click("#start")
        await expect(page.locator("#tokens .token:not(.given)").nth(5)).to_be_visible(timeout=WAIT_MS)
        with held(server.router()):  # or it might have ended before the click
            await page.click("#stop")
            await expect(page.locator("#generate-status")).to_contain_text("Stopped")
        await expect(page.locator("#start")).to_be_enabled()


async def test_the_cluster_is_shown(server: Server) -> None:
    """Load of all experts, stages of steps, phases of shards, memory."""
    async with opened(url_of(server)) as watched:
        await generate(watched, 24, seed=1)
        page = watched.page
        await expect(page.locator("#experts canvas, #experts svg, #experts table").first).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator(".steps")).to_contain_text("attention", timeout=WAIT_MS)
        await expect(page.locator("#phases")).to_contain_text("shard 1", timeout=WAIT_MS)
        await expect(page.locator("#memory")).to_contain_text("2 of 16 in each layer", timeout=WAIT_MS)
        for shard in ("0", "1"):
            await expect(page.locator(f"#shard-{shard}")).to_have_attribute("data-state", "ready", timeout=WAIT_MS)
        assert watched.faults == []


async def test_domains_are_compared(server: Server) -> None:
    async with opened(url_of(server)) as watched:
        page = watched.page
        await page.click("#compare")
        results = page.locator(".domains")
        await expect(results).to_contain_text(re.compile("Experts specialize|No specialization"), timeout=WAIT_MS)
        for name in ("Layer 0", "Layer 3"):
            await expect(results).to_contain_text(name)
        assert watched.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
async def test_every_width_and_theme(server: Server, width: int, scheme: str, tmp_path: Path) -> None:
    async with opened(url_of(server), width, scheme, reduced_motion="reduce") as watched:
        await generate(watched, 24, seed=3)
        await watched.page.click("#compare")
        await expect(watched.page.locator(".domains")).to_contain_text("Layer 3", timeout=WAIT_MS)
        assert await watched.overflow() <= 0
        background = await watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
        assert (light > 128) == (scheme == "light")
        kept = Path(os.environ.get("EXPERTMESH_SCREENSHOTS", tmp_path))
        await watched.page.screenshot(path=kept / f"page-{scheme}-{width}.png", full_page=True)
        assert (kept / f"page-{scheme}-{width}.png").stat().st_size > 10_000
        assert watched.faults == []


async def test_the_theme_is_the_systems_until_one_is_chosen(server: Server) -> None:
    async with opened(url_of(server), scheme="dark") as watched:
        page, root, button = watched.page, watched.page.locator("html"), watched.page.locator("#theme")
        await expect(root).to_have_attribute("data-theme", "dark")
        await page.emulate_media(color_scheme="light")
        await expect(root).to_have_attribute("data-theme", "light")
        for choice in ("light", "dark"):
            await button.click()
            await expect(button).to_have_text(f"Theme: {choice}")
            await expect(root).to_have_attribute("data-theme", choice)
        another = await page.context.new_page()
        await another.goto(url_of(server))
        await expect(another.locator("html")).to_have_attribute("data-theme", "dark")
        assert watched.faults == []


async def test_a_killed_shard_turns_red_and_returns(server: Server) -> None:
    """Last: the cluster is another one afterwards."""
    async with opened(url_of(server)) as watched:
        box = watched.page.locator("#shard-1")
        await expect(box).to_have_attribute("data-state", "ready", timeout=WAIT_MS)
        pid = int(await box.locator("[data-pid]").get_attribute("data-pid") or 0)
        os.kill(pid, signal.SIGKILL)
        red = watched.page.locator("#shard-1:is(.bad, .warn) .pill")  # both at once: it is back within seconds
        await expect(red.filter(has_not_text="ready")).to_be_visible()
        await expect(box).to_have_attribute("data-state", "ready", timeout=2 * WAIT_MS)
        await expect(box.locator("[data-pid]")).not_to_have_attribute("data-pid", str(pid))
        assert watched.faults == []

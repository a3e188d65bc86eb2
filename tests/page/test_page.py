"""The live page in headless Chromium, on a real cluster with the bundled model."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from router_service.client.client import Client
from tests.e2e.server import Server, held, serving
from tests.e2e.shared_ray import SharedRay
from tests.page.browser import NARROW, PROMPT, WAIT_MS, WIDE, Watched, generate, opened, url_of

# The first one may have to install Chromium.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]

LAYERS = 4


@pytest.fixture(scope="module")
def server(shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        *shared_ray.joined_as("page"), "--shards", "2", log=tmp_path_factory.mktemp("page") / "log"
    ) as running:
        yield running


async def select_the_last_of_the_prompt(watched: Watched) -> None:
    """With the mouse; the panel then has the gate's scores of each layer, the chosen ones with bars that are seen."""
    page, layers = watched.page, watched.page.locator("#routing .layer")
    await expect(page.locator("#tokens-hint")).to_be_visible()
    await page.locator("#tokens .token.given").last.click()
    await expect(layers).to_have_count(LAYERS)
    await expect(page.locator("#tokens-hint")).to_have_count(0)
    for layer in await layers.all():
        await expect(layer.locator(".scores .track")).to_have_count(16)
        await expect(layer.locator(".scores .chosen .fill")).to_have_count(2)
        box = await layer.locator(".scores .chosen .fill").first.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 8


async def cut_off(watched: Watched) -> int:
    """By how many pixels the widest part of the scores and of the grid is hidden."""
    parts = "[...document.querySelectorAll('.scores, .heat')].map((part) => part.scrollWidth - part.clientWidth)"
    hidden: int = await watched.page.evaluate(f"Math.max(...{parts})")
    return hidden


def kept(name: str, tmp_path: Path) -> Path:
    """Where a screenshot goes."""
    return Path(os.environ.get("EXPERTMESH_SCREENSHOTS", tmp_path)) / f"page-{name}.png"


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


async def test_one_token_is_not_called_tokens(server: Server) -> None:
    async with opened(url_of(server)) as watched:
        await generate(watched, 1, seed=5)
        await expect(watched.page.locator("#generate-status")).to_contain_text("): 1 token, the first after")


async def test_the_cluster_is_shown(server: Server) -> None:
    """Load of all experts, stages of steps, phases of shards, memory."""
    async with opened(url_of(server)) as watched:
        await generate(watched, 24, seed=1)
        page = watched.page
        await expect(page.locator("#experts canvas, #experts svg, #experts table").first).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator(".steps")).to_contain_text("attention", timeout=WAIT_MS)
        await expect(page.locator("#phases")).to_contain_text("shard 1", timeout=WAIT_MS)
        await expect(page.locator("#memory")).to_contain_text("2 of 16 in each layer", timeout=WAIT_MS)
        for name in (r"All-to-all\d+\.\d\s%", r"Shard imbalance[1-9]\.\d\d", r"Expert imbalance[1-9]\.\d\d"):
            await expect(page.locator("#summary")).to_contain_text(re.compile(name), timeout=WAIT_MS)
        for shard in ("0", "1"):
            await expect(page.locator(f"#shard-{shard}")).to_have_attribute("data-state", "ready", timeout=WAIT_MS)
            await expect(page.locator(f"#shard-{shard}")).to_have_attribute("data-link", "live", timeout=WAIT_MS)
        await expect(page.locator("#failure-note")).to_contain_text("Each expert is on 1 shard", timeout=WAIT_MS)
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
        await select_the_last_of_the_prompt(watched)
        await watched.page.click("#compare")
        await expect(watched.page.locator(".domains")).to_contain_text("Layer 3", timeout=WAIT_MS)
        await expect(watched.page.locator("#experts-figures")).to_be_visible(visible=width == WIDE, timeout=WAIT_MS)
        assert await watched.overflow() <= 0
        assert await cut_off(watched) <= 0
        background = await watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
        assert (light > 128) == (scheme == "light")
        path = kept(f"{scheme}-{width}", tmp_path)
        await watched.page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 10_000
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


async def test_a_killed_shard_turns_red_and_returns(server: Server, tmp_path: Path) -> None:
    """Last: the cluster is another one afterwards. What a token uses stays, and so does the routing that is shown."""
    async with opened(url_of(server), reduced_motion="reduce") as watched:
        page, box, memory = watched.page, watched.page.locator("#shard-1"), watched.page.locator("#memory")
        await expect(box).to_have_attribute("data-state", "ready", timeout=WAIT_MS)
        await generate(watched, 24, seed=3)
        await select_the_last_of_the_prompt(watched)
        await expect(memory).to_contain_text("loaded on 2 shards", timeout=WAIT_MS)
        uses = "; a token uses" + (await memory.inner_text()).partition("; a token uses")[2]
        pid = int(await box.locator("[data-pid]").get_attribute("data-pid") or 0)
        os.kill(pid, signal.SIGKILL)
        # All at once: the shard is soon back.
        dead = page.locator("body:has(#shard-1.bad[data-state=unreachable]) #memory")
        await expect(dead).to_contain_text(f"loaded on 1 of 2 shards{uses}", timeout=WAIT_MS)
        await keep_while_dead(watched, kept("dead-shard", tmp_path))
        await expect(box).to_have_attribute("data-state", "ready", timeout=2 * WAIT_MS)
        await expect(box.locator("[data-pid]")).not_to_have_attribute("data-pid", str(pid))
        await expect(memory).to_contain_text(f"loaded on 2 shards{uses}", timeout=WAIT_MS)
        await expect(page.locator("#routing .layer")).to_have_count(LAYERS)
        assert watched.faults == []


async def keep_while_dead(watched: Watched, path: Path) -> None:
    """A picture of the panels down to the domains, unless the shard has come back meanwhile."""
    domains = await watched.page.locator(".domains").bounding_box()
    assert domains is not None
    clip = {"x": 0, "y": 0, "width": WIDE, "height": domains["y"]}
    picture = await watched.page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    if await watched.page.locator("#shard-1.bad").count():
        path.write_bytes(picture)

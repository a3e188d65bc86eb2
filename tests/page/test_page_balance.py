"""The balancer on the live page, told by a router and a control plane of the test: moves, gains, silence, copies."""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from playwright.async_api import expect

from experts.links.state import LinkState
from router_service.protocol.balance import BalanceReport, PlanReport
from router_service.text.text_model import load_text_model
from tests.page.browser import NARROW, WIDE, opened
from tests.page.test_page_failure import activity
from tests.unit.front.front_fakes import report, write_checkpoint
from tests.unit.front.front_world import World
from tests.unit.front.http_world import browse
from tests.unit.front.shard_reports import shard

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PLAN = PlanReport(
    4,
    "preparing",
    "shard 0 is the busiest",
    copies_added=3,
    copies_dropped=1,
    bytes=2 << 20,
    began=1_700_000_000.0,
    predicted_gain=0.25,
    shards_ready=1,
    shards_loading=2,
)
DONE = replace(PLAN, state="done", ended=1_700_000_060.0, measured_gain=0.2)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(load_text_model(write_checkpoint(tmp_path)))
    yield world
    await world.close()


def balance(**fields: object) -> BalanceReport:
    values = {
        "epoch": 3,
        "automatic": True,
        "last_run": time.time(),
        "result": "kept",
        "reason": "no plan saves 5%",
        "copies_moved": 9,
        "replicas_S": [5, 4, 7],
        "plans": [PLAN],
        "shards": 3,
        "most_shards": 4,
        "interval": 60.0,
    }
    return BalanceReport(**(values | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [WIDE, NARROW])
async def test_a_move_its_gain_and_the_balancers_silence_are_seen(world: World, width: int) -> None:
    router, browser = await browse(world)
    router.say(report(shards=[shard(n, link=LinkState.LIVE) for n in range(3)], epoch=3))
    async with browser, opened(browser.url, width) as watched:
        page = watched.page
        note, moving, silent = (page.locator(f"#balance-{name}") for name in ("note", "moving", "silent"))
        rows = page.locator("#plans tbody tr")
        await expect(note).to_have_text("Nothing was heard of a balancer.")
        await expect(rows).to_have_text(["no move yet"])
        world.balance = balance()
        await expect(note).to_contain_text("Placement 3. Experts are moved where that pays; copies moved so far: 9.")
        await expect(note).to_contain_text(": kept, no plan saves 5%.")
        await expect(moving).to_have_text("Moving to placement 4: 1 of 2 shards have loaded.")
        await expect(page.locator("#shard-2")).to_contain_text("experts7")
        world.balance = balance(plans=[replace(PLAN, state="switched")])
        await expect(moving).to_have_text("Moving to placement 4: routers change over.")
        await expect(rows).to_have_text([re.compile(r"4switched25\.0.%\u2013\+3 .12\.0.MiB$")])
        world.balance = balance(plans=[DONE, replace(PLAN, epoch=5, state="failed", predicted_gain=0.0)], pinned=True)
        await expect(rows).to_have_text([re.compile(r"5failed"), re.compile(r"4done25\.0.%20\.0.%")])
        await expect(note).to_contain_text("The placement is pinned")
        await expect(moving).to_have_text("")
        await expect(silent).to_have_text("")
        world.balance = balance(last_run=time.time() - 600.0)
        await expect(silent).to_contain_text("The balancer is silent: its last look was 10 minutes ago.")
        assert await watched.overflow() <= 0
        assert watched.faults == []


async def test_each_layer_shows_its_own_shards(world: World) -> None:
    router, browser = await browse(world)
    router.say(report(shards=[shard(n, link=LinkState.LIVE) for n in range(3)], epoch=3))
    async with browser, opened(browser.url) as watched:
        page, grid = watched.page, watched.page.locator("#experts")
        detail, strips = page.locator("#expert-detail"), page.locator("#experts-strips")
        alike = activity()
        router.say(alike)
        await expect(page.locator("#failure-note")).to_have_text("Each expert is on 2 shards (placement 3).")
        await expect(strips).to_be_hidden()
        hot = [[2], [0], [1, 0, 2], [0]]
        router.say(replace(alike, special={1: hot}, epoch=4))
        await expect(strips).to_be_visible()
        await expect(page.locator("#failure-note")).to_have_text("Each expert is on 1 to 3 shards (placement 3).")
        await grid.focus()
        await expect(detail).to_contain_text("Layer 0, expert 0: 1 token")
        await expect(detail).to_contain_text("2 replicas on shard 0, ready; shard 1, ready")
        for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
            await grid.press(key)
        await expect(detail).to_contain_text("Layer 1, expert 2")
        await expect(detail).to_contain_text("3 replicas on shard 1, ready; shard 0, ready; shard 2, ready")
        assert await watched.overflow() <= 0
        assert watched.faults == []

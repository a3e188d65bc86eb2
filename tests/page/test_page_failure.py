"""Failures on the live page, told by a router of the test: every state is there for as long as the page needs."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from experts.links.state import LinkState
from router_service.protocol.messages import Activity, FailoverReport, ShardActivity, StepTimes
from router_service.text.text_model import load_text_model
from tests.page.browser import NARROW, WIDE, opened
from tests.unit.front.front_fakes import FakeRouter, report, until, write_checkpoint
from tests.unit.front.front_world import World
from tests.unit.front.http_world import browse
from tests.unit.front.shard_reports import shard

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LIVE, SUSPECT, DEAD = LinkState.LIVE, LinkState.SUSPECT, LinkState.DEAD
# Two copies of each expert on three shards.
HOLDERS = [[0, 1], [0, 1], [1, 2], [2, 0]]
NOW = 1_700_000_000.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(load_text_model(write_checkpoint(tmp_path)))
    yield world
    await world.close()


class Told:
    """A Front with a page, and what its router says."""

    def __init__(self, router: FakeRouter, url: str) -> None:
        self.url = url
        self._router = router

    @classmethod
    async def by(cls, world: World) -> "Told":
        router, browser = await browse(world)
        async with browser:
            return cls(router, browser.url)

    def say(self, *links: LinkState, **fields: Any) -> None:
        states = ["unreachable" if link is DEAD else "connected" for link in links]
        shards = [shard(n, state, link=link) for n, (state, link) in enumerate(zip(states, links, strict=True))]
        self._router.say(report(shards=shards, epoch=3, **fields))
        self._router.say(activity())


def activity() -> Activity:
    return Activity(
        router="r0",
        seconds=0.5,
        layers=[0, 1],
        holders=HOLDERS,
        expert_tokens=b"".join(count.to_bytes(4, "little") for count in range(1, 9)),
        shards=[ShardActivity(n, 20, 4, {"compute": 0.4}) for n in range(3)],
        stages=["attention", "wait"],
        stage_seconds=[0.1, 0.3],
        step_count=1,
        steps=[StepTimes("decode", 3, 0.2, [0.05, 0.15])],
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
async def test_a_suspect_a_death_and_the_failovers_are_seen(world: World, width: int) -> None:
    told = await Told.by(world)
    async with opened(told.url, width) as watched:
        page, box = watched.page, watched.page.locator("#shard-1")
        told.say(LIVE, LIVE, LIVE)  # only now: activity is shown for seconds
        note, rows = page.locator("#failure-note"), page.locator("#failovers tbody tr")
        await expect(note).to_have_text("Each expert is on 2 shards (placement 3).")
        await expect(rows).to_have_text(["none seen"])
        await expect(box).to_have_class("shard good")
        told.say(LIVE, SUSPECT, LIVE)
        await expect(box).to_have_attribute("data-link", "suspect")
        # It serves all the same.
        await expect(box).to_have_attribute("data-state", "suspect")
        await expect(box).to_have_class("shard warn")
        await expect(page.locator("#memory")).to_contain_text("loaded on 3 shards")
        failovers = [FailoverReport(NOW, 1, "suspect", 0.05), FailoverReport(NOW + 60, 1, "eof", 0.125)]
        told.say(LIVE, DEAD, LIVE, failovers=failovers)
        await expect(box).to_have_class("shard bad")
        await expect(rows).to_have_text([re.compile(r"1eof125\.0.ms.*r0$"), re.compile(r"1suspect50\.0.ms.*r0$")])
        # A copy of each expert is left, so none of the grid is lost.
        await page.locator("#experts").focus()
        await expect(page.locator("#expert-detail")).to_contain_text("shard 0, ready; shard 1, unreachable")
        told.say(LIVE, DEAD, DEAD, failovers=failovers, unavailable_experts=1, degraded_tokens=7)
        await expect(note).to_contain_text("1 expert of a layer without a living copy. 7 tokens degraded")
        assert await watched.overflow() <= 0
        assert watched.faults == []


async def test_of_two_routers_the_one_that_suspects_is_counted(world: World) -> None:
    told = await Told.by(world)
    told.say(LIVE, LIVE, LIVE)
    other = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    other.say(report("r1", shards=[shard(n, link=link) for n, link in enumerate((LIVE, LIVE, SUSPECT))]))
    async with opened(told.url) as watched:
        await expect(watched.page.locator("#shard-2")).to_contain_text("suspect (1 of 2)")
        await expect(watched.page.locator("#shard-0")).to_have_attribute("data-link", "live")
        assert watched.faults == []

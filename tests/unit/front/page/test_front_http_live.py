"""The live stream: who is watched and when, what a slow page gets, how many may look, the drain."""

import asyncio
import json

import pytest

from experts.host.watched_task import TaskWatch
from router_service.front.errors import RequestError
from router_service.front.page.hub import LiveHub
from router_service.protocol.messages import Activity, ShardActivity, StepTimes
from tests.unit.front.front_fakes import WAIT_S, report, until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser, browse, snapshots
from tests.unit.front.shard_reports import shard


def activity(router: str = "r0", tokens: list[int] | None = None, **fields: object) -> Activity:
    counts = tokens or [1, 2, 3, 4, 5, 6, 7, 8]
    values = {
        "router": router,
        "seconds": 0.5,
        "layers": [1, 3],
        "holders": [[0], [0], [1], [1]],
        "expert_tokens": b"".join(count.to_bytes(4, "little") for count in counts),
        "shards": [ShardActivity(0, 20, 4, {"compute": 0.4}), ShardActivity(1, 0, 0, {"compute": 0.0})],
        "stages": ["attention", "wait"],
        "stage_seconds": [0.1, 0.3],
        "step_count": 2,
        "steps": [StepTimes("decode", 3, 0.2, [0.05, 0.15])],
    }
    return Activity(**(values | fields))  # type: ignore[arg-type]


class Counting:
    """A hub's links and collector, counted."""

    def __init__(self, limit: int = 4) -> None:
        self.collected = 0
        self.tasks = TaskWatch()
        self.hub = LiveHub(lambda: (), self._collect, limit, tick_s=0.01, tasks=self.tasks)

    def _collect(self) -> bytes:
        self.collected += 1
        return str(self.collected).encode()


async def test_with_nobody_looking_nothing_is_collected() -> None:
    """There is no task then that could."""
    others = asyncio.all_tasks()
    counting = Counting()
    assert asyncio.all_tasks() == others
    watcher = counting.hub.join()
    assert len(asyncio.all_tasks() - others) == 1
    await watcher.take()
    counting.hub.leave(watcher)
    seen = counting.collected
    await until(lambda: asyncio.all_tasks() == others)
    assert counting.collected == seen
    counting.tasks.check()


async def test_a_hub_that_ends_is_missed() -> None:
    async def broken(_: float) -> None:
        raise LookupError("out of luck")

    tasks = TaskWatch()
    hub = LiveHub(lambda: (), lambda: b"", 2, tasks=tasks, sleep=broken)
    hub.join()
    await until(lambda: tasks.failures == {"live hub": 1})
    with pytest.raises(RuntimeError, match="tasks have died: live hub"):
        tasks.check()
    hub.close()


async def test_one_collection_serves_all() -> None:
    counting = Counting()
    watchers = [counting.hub.join() for _ in range(4)]
    frames = [await watcher.take() for watcher in watchers]
    assert len({id(frame) for frame in frames}) == 1
    counting.hub.close()


async def test_a_slow_page_gets_the_latest_only() -> None:
    counting = Counting()
    slow, fast = counting.hub.join(), counting.hub.join()
    for _ in range(5):
        await fast.take()
    assert slow.dropped >= 3
    assert await slow.take() == str(counting.collected).encode()
    more = asyncio.create_task(slow.take())
    await asyncio.sleep(0)  # enough to take what waits, and not for another tick, which needs the loop once more
    assert not more.done()
    counting.hub.close()
    assert await more is None


async def test_too_many_pages() -> None:
    counting = Counting(limit=2)
    first = counting.hub.join()
    counting.hub.join()
    with pytest.raises(RequestError, match=r"2 live pages are open.*front\.max_pages"):
        counting.hub.join()
    counting.hub.leave(first)
    counting.hub.join()
    counting.hub.close()


async def test_a_failing_snapshot_does_not_end_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[int] = []

    def collect() -> bytes:
        attempts.append(1)
        if len(attempts) == 1:
            raise ZeroDivisionError("a bug")
        return b"fine"

    hub = LiveHub(lambda: (), collect, 2, tick_s=0.01)
    watcher = hub.join()
    assert await asyncio.wait_for(watcher.take(), WAIT_S) == b"fine"
    assert "a bug" in caplog.text
    hub.close()
    assert await asyncio.wait_for(watcher.take(), WAIT_S) is None


async def test_routers_hear_of_watchers_only_while_there_are_some(world: World) -> None:
    router, browser = await browse(world)
    await world.asked_again()
    assert world.server.live is not None
    assert world.server.live.hub.watchers == 0
    assert router.watches == []
    async with browser:
        async with browser.get("/live") as response:
            await response.content.readline()
            # They hear it again every two seconds.
            await until(lambda: set(router.watches) == {5.0})
            second = await world.router(name="r1")
            await until(lambda: set(second.watches) == {5.0})
        await until(lambda: router.watches[-1] == second.watches[-1] == 0.0)


async def test_what_a_snapshot_says(world: World) -> None:
    router, browser = await browse(world)
    router.say(report(shards=[shard(0, rows=7.0), shard(1, "unreachable", 0.0, None, last_error="reset")]))
    router.say(activity())
    router.say(activity(step_count=3))
    async with browser:
        model, seen = await snapshots(browser, lambda data: data.get("steps", {}).get("steps_in_window") == 5)
    assert (model["name"], model["experts"], model["has_chat_template"]) == ("tiny", 8, True)
    assert seen["experts"]["tokens"] == [[2, 4, 6, 8], [10, 12, 14, 16]]
    assert (seen["experts"]["layers"], seen["experts"]["holders"]) == ([1, 3], [[0], [0], [1], [1]])
    alive, dead = seen["shards"]
    assert (alive["state"], alive["rows_per_second"]) == ("ready", 40.0)
    assert alive["phases"] == {"compute": pytest.approx(0.1)}
    assert (dead["state"], dead["rows_per_second"], dead["phases"], dead["last_error"]) == (
        "unreachable",
        0,
        None,
        "reset",
    )
    steps = seen["steps"]
    assert (steps["steps_in_window"], steps["stage_seconds"]) == (5, [0.2, pytest.approx(0.6)])
    assert steps["latest"] == [["decode", 3, 0.2, [0.05, 0.15]]] * 2
    assert (seen["draining"], seen["routers"][0]["router"], seen["routers"][0]["running"]) == (False, "r0", 1)


async def test_several_routers_add_up(world: World) -> None:
    first, browser = await browse(world)
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    first.say(activity())
    second.say(activity("r1", tokens=[10] * 8))
    async with browser:
        _, seen = await snapshots(browser, lambda data: "experts" in data and data["experts"]["tokens"][0][0] > 10)
    assert seen["experts"]["tokens"] == [[11, 12, 13, 14], [15, 16, 17, 18]]
    assert seen["steps"]["steps_in_window"] == 4


async def test_open_pages_hear_of_the_drain(world: World) -> None:
    _, browser = await browse(world)
    async with browser:
        await snapshots(browser, lambda data: data["draining"] is False)
        world.server.health.drain()
        await snapshots(browser, lambda data: data["draining"] is True)


async def test_the_page_over_the_limit_is_told_so(world: World) -> None:
    await world.router()
    client = await world.front(http_port=0, max_pages=1)
    await client.wait_ready(10)
    async with Browser(world.server.http_port) as browser, browser.get("/live") as open_page:
        await open_page.content.readline()
        async with browser.get("/live") as refused:
            answer = json.loads(await refused.text())
            assert (refused.status, answer["code"]) == (503, "UNAVAILABLE")
            assert "1 live pages are open" in answer["error"]

"""What the live page is told of the balancer: the placement, the latest plans, its silence; and copies by layer."""

import msgspec
import pytest

from router_service.front.page.balance import SHOWN_PLANS, balance
from router_service.protocol.balance import BalanceReport, PlanReport
from router_service.protocol.messages import decode_to_front, encode
from tests.unit.front.front_fakes import report, until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import browse, snapshots
from tests.unit.front.page.test_front_http_live import activity
from tests.unit.front.shard_reports import shard

PLAN = PlanReport(
    7,
    "preparing",
    "shard 0 is the busiest",
    copies_added=3,
    copies_dropped=1,
    bytes=4096,
    began=90.0,
    predicted_gain=0.25,
    shards_ready=1,
    shards_loading=2,
)
REPORT = BalanceReport(
    epoch=6,
    automatic=True,
    last_run=100.0,
    result="moved",
    reason="25% of the time",
    copies_moved=9,
    replicas_S=[4, 0, 6],
    plans=[PLAN],
    shards=2,
    most_shards=8,
    interval=4.0,
)


def test_a_report_is_told_whole() -> None:
    told = balance(REPORT, now=110.0)
    assert told is not None
    (plan,) = told.pop("plans")
    assert told == {
        "epoch": 6,
        "automatic": True,
        "pinned": False,
        "age": 10.0,
        "silent": False,
        "result": "moved",
        "reason": "25% of the time",
        "copies_moved": 9,
        "replicas": {0: 4, 2: 6},
        "shards": 2,
        "most_shards": 8,
    }
    assert plan == {
        "epoch": 7,
        "state": "preparing",
        "reason": "shard 0 is the busiest",
        "added": 3,
        "dropped": 1,
        "bytes": 4096,
        "began": 90.0,
        "ended": None,
        "predicted": 0.25,
        "measured": None,
        "ready": 1,
        "loading": 2,
    }


@pytest.mark.parametrize(("now", "silent"), [(120.0, False), (120.1, True)])
def test_five_intervals_without_a_look_are_silence(now: float, silent: bool) -> None:
    told = balance(REPORT, now)
    assert told is not None
    assert told["silent"] is silent


def test_a_balancer_that_has_not_looked_yet_is_not_silent() -> None:
    told = balance(BalanceReport(), 1e9)
    assert told is not None
    assert (told["age"], told["silent"]) == (None, False)


def test_the_newest_plans_come_first_and_not_too_many() -> None:
    plans = [msgspec.structs.replace(PLAN, epoch=epoch) for epoch in range(20)]
    told = balance(msgspec.structs.replace(REPORT, plans=plans), 100.0)
    assert told is not None
    assert [plan["epoch"] for plan in told["plans"]] == list(range(19, 19 - SHOWN_PLANS, -1))


def test_layers_of_their_own_survive_the_wire() -> None:
    told = activity(special={3: [[1], [0], [1, 0], [0]]}, epoch=4)
    assert decode_to_front(encode(told)) == told


async def test_a_snapshot_has_the_balance_and_the_newest_placement(world: World) -> None:
    router, browser = await browse(world)
    other = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    world.balance = REPORT
    router.say(report(shards=[shard(0), shard(1)]))
    special = {3: [[1], [0], [1, 0], [0]]}
    async with browser:
        other.say(activity("r1", special=special, epoch=6))
        router.say(activity(epoch=5))
        _, seen = await snapshots(browser, lambda data: len(data.get("experts", {}).get("special", {})) == 1)
    assert seen["balance"]["epoch"] == seen["experts"]["epoch"] == 6
    assert seen["experts"]["special"] == {"3": special[3]}
    assert seen["experts"]["holders"] == [[0], [0], [1], [1]]
    # Both routers' tokens: an expert is the same wherever it is.
    assert seen["experts"]["tokens"] == [[2, 4, 6, 8], [10, 12, 14, 16]]

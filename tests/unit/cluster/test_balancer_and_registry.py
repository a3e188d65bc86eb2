"""The balancer's and the routers' calls to the registry, as its actor answers them; and the replica's health."""

import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.balance.config import BalanceConfig
from experts.demand import RoutedLoad
from experts.host.watched_thread import ThreadWatch
from experts.placement import LayerPlacement
from router_service.protocol.balance import BalanceReport
from tests.support.mesh import until
from tests.support.routed_traffic import demand, report, zipf

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    import ray

    from cluster.processes.balancing.desk import BalanceDesk
    from cluster.processes.balancing.load_reporter import LoadReporter
    from cluster.processes.maps.placement_maps import Layout
    from cluster.processes.service_registry import Announcement, ServiceRegistry

LAYOUT = Layout(experts=4, shards=2)
LOAD = report(demand(zipf(1, 4, 1.0), steps=1))


class Remote:
    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        return lambda: self._call(*arguments)


class Handle:
    """The registry's actor as its processes see it; `dead` while it does not answer."""

    def __init__(self) -> None:
        self.body, self.dead = ServiceRegistry(), False

    def __getattr__(self, name: str) -> Remote:
        return Remote(lambda *arguments: self._answer(name, *arguments))

    def _answer(self, name: str, *arguments: Any) -> Any:
        if self.dead:
            raise ray.exceptions.RayActorError
        return getattr(self.body, name)(*arguments)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())  # noqa: ARG005 (Ray's name)
    return Handle()


def entry(role: str, index: int, replica: str, started_ns: int = 0) -> Announcement:
    return Announcement(role, index, replica, "node", 1, "ready", started_ns=started_ns)


def test_the_desk_finds_and_leaves_all_that_it_needs(handle: Handle) -> None:
    desk = BalanceDesk(handle, LAYOUT)
    for one in (
        entry("shard", 0, "old", 1),
        entry("shard", 0, "new", 2),
        entry("shard", 1, "b"),
        entry("router", 0, "r"),
    ):
        handle.body.announce(one)
    assert {index: one.replica for index, one in desk.shards().items()} == {0: "new", 1: "b"}
    handle.body.note_load(LOAD, 60.0)
    assert [(one.number, one.load) for one in desk.loads(0)] == [(1, LOAD)]
    assert desk.loads(1) == []
    view = desk.view(0)
    assert (view.epoch, view.current is not None, desk.view(1).current) == (1, True, None)
    assert (desk.report(), desk.wanted(), desk.migration()) == (None, 0, None)
    desk.note(BalanceReport(epoch=7))
    desk.want(3)
    assert (desk.report(), desk.wanted()) == (BalanceReport(epoch=7), 3)
    assert view.current is not None
    swapped = replace(view.current, everywhere=LayerPlacement(((1,), (1,), (0,), (0,))))
    assert desk.propose(swapped, 1, "why", 60.0) == 2
    migration = desk.migration()
    assert migration is not None
    assert (migration.epoch, migration.state, migration.reason) == (2, "preparing", "why")


def test_a_router_reports_until_it_ends_also_past_a_registry_that_is_away(handle: Handle) -> None:
    taken = threading.Semaphore(0)

    def take() -> RoutedLoad | None:
        taken.release()
        return LOAD

    handle.body.announce(entry("router", 0, LOAD.router))
    handle.dead = True
    threads = ThreadWatch()
    reporter = LoadReporter(handle, take, BalanceConfig(interval_seconds=0.01), threads)
    assert taken.acquire(timeout=60)
    handle.dead = False
    until(lambda: bool(handle.body.loads()), "a report")
    reporter.close()
    threads.check()


def test_a_router_that_rests_reports_nothing(handle: Handle) -> None:
    asked = threading.Event()

    def take() -> RoutedLoad | None:
        asked.set()
        return None

    handle.body.announce(entry("router", 0, LOAD.router))
    reporter = LoadReporter(handle, take, BalanceConfig(interval_seconds=0.01), ThreadWatch())
    assert asked.wait(60)
    reporter.close()
    assert handle.body.loads() == []

"""The registry's body: what it remembers of processes, and what it forgets."""

import warnings

import pytest

from experts.transport.address import Endpoint

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.service_registry import (
        FORGET_SECONDS,
        Announcement,
        DrainOrder,
        ServiceRegistry,
        endpoints_of,
    )

ORDER = DrainOrder(grace_s=1.0)


class Seconds:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def registry(clock: Seconds) -> ServiceRegistry:
    return ServiceRegistry(clock)


def entry(replica: str) -> Announcement:
    return Announcement("router", 0, replica, "node", 1, "ready")


def test_the_order_of_a_process_that_died_is_forgotten_with_it(registry: ServiceRegistry, clock: Seconds) -> None:
    registry.announce(entry("dead"))
    registry.order("dead", ORDER)
    clock.now += FORGET_SECONDS / 2
    assert registry.announcements() == [entry("dead")]
    assert registry.announce(entry("dead")) == ORDER
    clock.now += FORGET_SECONDS + 1
    assert registry.announcements() == []
    assert registry.announce(entry("dead")) is None


def test_the_order_of_one_that_lives_stays_however_old_it_is(registry: ServiceRegistry, clock: Seconds) -> None:
    registry.announce(entry("slow"))
    registry.order("slow", ORDER)
    for _ in range(5):
        clock.now += FORGET_SECONDS - 1
        assert registry.announce(entry("slow")) == ORDER
        assert registry.announcements() == [entry("slow")]


def test_an_order_may_be_there_before_its_process(registry: ServiceRegistry, clock: Seconds) -> None:
    """After a restart of the actor, entries come back one by one."""
    registry.order("late", ORDER)
    clock.now += 1
    assert registry.announcements() == []
    assert registry.announce(entry("late")) == ORDER


def shard(replica: str, started_ns: int, incarnation: int) -> Announcement:
    at = Endpoint(
        role="shard",
        index=0,
        replica=replica,
        incarnation=incarnation,
        node="n",
        host="",
        port=1,
        unix_name="",
        pid=1,
    )
    return Announcement("shard", 0, replica, "n", 1, "ready", 0, 0, at, started_ns, incarnation)


@pytest.mark.parametrize("youngest", [shard("new", 8, 1), shard("new", 7, 4)])
def test_a_registry_that_was_restarted_knows_the_youngest_in_whatever_order_they_come(
    registry: ServiceRegistry, youngest: Announcement
) -> None:
    for one in (youngest, shard("old", 7, 3)):
        registry.announce(one)
    assert [one.replica for one in registry.announcements()] == ["old", "new"]
    assert [at.replica for at in endpoints_of(registry.announcements(), "shard")] == ["new"]

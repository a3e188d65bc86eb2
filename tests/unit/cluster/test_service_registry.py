"""The registry's body: what it remembers of processes, and what it forgets."""

import warnings

import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.service_registry import FORGET_SECONDS, Announcement, DrainOrder, ServiceRegistry

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

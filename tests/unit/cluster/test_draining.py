"""Orders to drain: who gets them, when all have drained, and what is said of those that have not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import ray

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.draining import MARGIN_SECONDS, POLL_SECONDS, NotDrainedError, drain
    from cluster.processes.service_registry import Announcement, DrainOrder, ServiceRegistry

ORDER = DrainOrder(grace_s=0.2, notice_s=0.1)


class Remote:
    """Calls the registry's body as Ray's handle of the actor would, through `ray.get` below."""

    def __init__(self, body: ServiceRegistry, each_call: Callable[[], object]) -> None:
        self._body = body
        self._each_call = each_call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._body, name)

        class Method:
            @staticmethod
            def remote(*args: Any) -> Any:
                answer = method(*args)
                self._each_call()
                return answer

        return Method


class Restarted(ServiceRegistry):
    """Its actor may be started again, which then knows of nothing."""

    def restart(self) -> None:
        super().__init__()


class Seconds:
    """A clock that only its own sleep moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def drained(
    body: ServiceRegistry,
    each_call: Callable[[], object],
    whom: Callable[[Announcement], bool] = lambda _: True,
    clock: Seconds | None = None,
) -> int:
    """`drain` without waiting; `each_call` is run after each call of the directory."""
    clock = clock or Seconds()
    return drain(Remote(body, each_call), ORDER, whom, clock, clock.sleep)


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)  # noqa: ARG005 (Ray's name)


def process(role: str, replica: str, node: str = "a", state: str = "ready") -> Announcement:
    return Announcement(role, 0, replica, node, 1, state)


def test_only_those_that_are_picked_hear_of_it_and_are_waited_for() -> None:
    body = ServiceRegistry()
    for one in (process("front", "f"), process("router", "r"), process("front", "g", node="b")):
        body.announce(one)

    def live() -> None:
        if body.announce(process("front", "f")) is not None:
            body.announce(process("front", "f", state="drained"))
        assert body.announce(process("router", "r")) is None
        assert body.announce(process("front", "g", node="b")) is None

    assert drained(body, live, lambda one: one.node == "a" and one.role == "front") == 1


def test_who_goes_is_not_waited_for() -> None:
    body = ServiceRegistry()
    body.announce(process("front", "f"))
    assert drained(body, lambda: body.withdraw("front", 0, "f")) == 1


def test_nobody_to_drain_is_done_at_once() -> None:
    assert drained(ServiceRegistry(), lambda: None) == 0


def test_a_registry_that_forgot_is_told_again() -> None:
    registry, heard = Restarted(), list[DrainOrder]()

    def live() -> None:
        entry = process("router", "r", state="drained" if len(heard) > 2 else "ready")
        if (order := registry.announce(entry)) is not None:
            heard.append(order)
            registry.restart()
            registry.announce(entry)

    registry.announce(process("router", "r"))
    drained(registry, live)
    assert len(heard) >= 3
    assert set(heard) == {ORDER}


def test_a_registry_that_has_just_restarted_lists_nobody_and_nobody_is_taken_for_drained() -> None:
    registry, seconds, looks = Restarted(), Seconds(), list[float]()

    def live() -> None:
        looks.append(seconds.now)
        if len(looks) == 2:
            registry.restart()
        elif seconds.now > 1.0:  # its process renews the entry then
            registry.announce(process("router", "r", state="drained" if seconds.now > 1.5 else "draining"))

    registry.announce(process("router", "r"))
    assert drained(registry, live, clock=seconds) == 1
    assert seconds.now > 1.5


def test_a_registry_that_dies_during_a_drain_ends_it_neither_early_nor_with_an_error() -> None:
    body, seconds = ServiceRegistry(), Seconds()
    body.announce(process("router", "r", state="draining"))

    def live() -> None:
        if 0.1 < seconds.now < 2.0:
            raise ray.exceptions.RayActorError
        if seconds.now >= 2.0:
            body.announce(process("router", "r", state="drained"))

    assert drained(body, live, clock=seconds) == 1
    assert seconds.now >= 2.0


def test_it_says_who_has_not_drained_in_time() -> None:
    body = ServiceRegistry()
    body.announce(process("router", "r"))
    seconds = Seconds()
    with pytest.raises(NotDrainedError, match=r"router r \(draining\)"):
        drained(body, lambda: body.announce(process("router", "r", state="draining")), clock=seconds)
    assert seconds.now == pytest.approx(ORDER.notice_s + ORDER.grace_s + MARGIN_SECONDS, abs=2 * POLL_SECONDS)

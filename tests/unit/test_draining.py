"""Orders to drain: who gets them, when all have drained, and what is said of those that have not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import ray

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes import draining
    from cluster.processes.draining import NotDrainedError, drain
    from cluster.processes.service_registry import Announcement, DrainOrder, ServiceRegistry

ORDER = DrainOrder(grace_s=0.2, notice_s=0.1)


class Remote:
    """Calls the registry's body as Ray's handle of the actor would, through `ray.get` below."""

    def __init__(self, body: ServiceRegistry, each_call: Callable[[], None]) -> None:
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


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)  # noqa: ARG005 (Ray's name)
    monkeypatch.setattr(draining, "POLL_SECONDS", 0.01)


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

    assert drain(Remote(body, live), ORDER, lambda one: one.node == "a" and one.role == "front") == 1


def test_who_goes_is_not_waited_for() -> None:
    body = ServiceRegistry()
    body.announce(process("front", "f"))
    assert drain(Remote(body, lambda: body.withdraw("front", 0, "f")), ORDER, lambda _: True) == 1


def test_nobody_to_drain_is_done_at_once() -> None:
    assert drain(Remote(ServiceRegistry(), lambda: None), ORDER, lambda _: True) == 0


def test_a_registry_that_forgot_is_told_again() -> None:
    body = ServiceRegistry()
    heard: list[DrainOrder] = []

    def live() -> None:
        order = body.announce(process("router", "r", state="drained" if len(heard) > 2 else "ready"))
        if order is not None:
            heard.append(order)
            body._orders.clear()

    body.announce(process("router", "r"))
    drain(Remote(body, live), ORDER, lambda _: True)
    assert len(heard) >= 3
    assert set(heard) == {ORDER}


def test_it_says_who_has_not_drained_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "MARGIN_SECONDS", 0.1)
    body = ServiceRegistry()
    body.announce(process("router", "r"))
    with pytest.raises(NotDrainedError, match=r"router r \(draining\)"):
        drain(Remote(body, lambda: body.announce(process("router", "r", state="draining"))), ORDER, lambda _: True)

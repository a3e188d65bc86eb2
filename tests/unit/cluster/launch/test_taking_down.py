"""A start that is broken off on a Ray that others use as well: those that load are told to end."""

import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.config import ControlPlaneConfig
    from cluster.processes.ray_calls import RayTimeoutError
    from cluster.serve import taking_down
    from cluster.serve.taking_down import AT_ONCE, ORDER_SECONDS, break_off, ordering_the_end

LOADING = [SimpleNamespace(replica="a"), SimpleNamespace(replica="b")]


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What processes were told."""
    told: list[tuple[str, object]] = []
    order = SimpleNamespace(remote=lambda replica, order: told.append((replica, order)))
    monkeypatch.setattr(taking_down, "known_registry", lambda _: SimpleNamespace(order=order))
    monkeypatch.setattr(taking_down, "registered_in", lambda _: LOADING)
    monkeypatch.setattr(taking_down, "get", lambda *_: None)
    return told


def test_they_are_told_once_a_second(orders: list[tuple[str, object]]) -> None:
    now = 0.0
    order = ordering_the_end("a", lambda: now)
    for _ in range(3):
        order()
    assert orders == [("a", AT_ONCE), ("b", AT_ONCE)]
    now += ORDER_SECONDS
    order()
    assert len(orders) == 4


@pytest.mark.parametrize("error", [ValueError("no such actor"), RayTimeoutError("Ray did not answer")])
def test_a_registry_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def missing(_: str) -> None:
        raise error

    monkeypatch.setattr(taking_down, "known_registry", missing)
    ordering_the_end("a")()


def test_what_takes_longer_than_seconds_is_left_to_serve(
    monkeypatch: pytest.MonkeyPatch, orders: list[tuple[str, object]]
) -> None:
    end, forgotten = threading.Event(), list[str]()
    monkeypatch.setattr(taking_down, "BREAK_OFF_SECONDS", 0.3)
    monkeypatch.setattr(taking_down, "serve", SimpleNamespace(delete=lambda _: end.wait(60.0)))
    monkeypatch.setattr(taking_down, "remove_registry", forgotten.append)
    break_off(ControlPlaneConfig(application="a"))
    end.set()
    assert [replica for replica, _ in orders][:2] == ["a", "b"]
    assert forgotten == ["a"]


def test_what_ray_refuses_is_said_and_the_registry_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> Any:
        raise RuntimeError("no controller")

    forgotten: list[str] = []
    monkeypatch.setattr(taking_down, "serve", SimpleNamespace(delete=refuse))
    monkeypatch.setattr(taking_down, "remove_registry", forgotten.append)
    with pytest.raises(RuntimeError, match="no controller"):
        break_off(ControlPlaneConfig(application="a"))
    assert forgotten == ["a"]

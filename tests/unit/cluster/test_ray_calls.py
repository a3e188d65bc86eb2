"""Whatever is asked of Ray has an end, and what is said then names what was waited for and how long."""

import asyncio
import pickle
import threading
from typing import Any

import pytest

from cluster.processes import ray_calls
from cluster.processes.ray_calls import RayTimeoutError, await_ref, call
from cluster.processes.service_registry import await_registered


class SilentRegistry:
    """A registry whose actor never answers; it is its own method, and notes who asks."""

    def __init__(self) -> None:
        self.announcements = self
        self.asked = 0

    def remote(self) -> Any:
        self.asked += 1
        return asyncio.Event().wait()


async def test_a_silent_registry_is_not_waited_for_for_ever() -> None:
    registry = SilentRegistry()
    said = "^Ray did not answer: waited 0.01 s for the registry's list of processes$"
    with pytest.raises(RayTimeoutError, match=said):
        await await_registered(registry, 0.01)
    assert registry.asked == 1


async def test_what_fails_there_is_not_taken_for_silence() -> None:
    async def fails() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await await_ref(fails(), "an answer", 60.0)
    with pytest.raises(TimeoutError, match="of its own"):
        call(lambda: asyncio.run(fails()), "an answer", 60.0)


def test_a_call_that_hangs_is_left_and_the_next_one_goes_on() -> None:
    end = threading.Event()
    with pytest.raises(RayTimeoutError, match=r"^Ray did not answer: waited 0\.01 s for it to start$"):
        call(end.wait, "it to start", 0.01)
    assert call(lambda: 7, "the next one", 60.0) == 7
    end.set()


def test_calls_run_on_threads_that_stay() -> None:
    """Ray's own processes end when the thread ends that started them."""
    threads = [call(threading.current_thread, "a thread", 60.0) for _ in range(3)]
    assert all(thread.is_alive() and thread.daemon for thread in threads)


def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 // 0, "a quotient", 60.0)


def test_a_reference_that_is_not_there_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object, timeout: float) -> None:
        raise ray_calls.ray.exceptions.GetTimeoutError(f"{timeout}")

    monkeypatch.setattr(ray_calls.ray, "get", never)
    with pytest.raises(RayTimeoutError, match="waited 3 s for an order"):
        ray_calls.get(object(), "an order", 3.0)


def test_a_ray_that_does_not_end_is_not_waited_for_at_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[object] = []
    end = threading.Event()
    monkeypatch.setattr(ray_calls.ray, "shutdown", end.wait)
    monkeypatch.setattr(ray_calls.atexit, "unregister", forgotten.append)
    with pytest.raises(RayTimeoutError, match=r"waited 0\.01 s for it to end"):
        ray_calls.leave(0.01)
    assert forgotten == [end.wait]
    end.set()


def test_the_error_crosses_processes() -> None:
    assert str(pickle.loads(pickle.dumps(RayTimeoutError("said")))) == "said"


def test_whoever_waits_can_be_told_not_to() -> None:
    end, looks = threading.Event(), list[int]()

    def go_on() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise InterruptedError("a signal")

    with pytest.raises(InterruptedError, match="a signal"):
        call(end.wait, "it to start", 60.0, go_on)
    assert call(lambda: 7, "the next one", 60.0, go_on) == 7
    end.set()

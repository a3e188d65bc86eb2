"""What a process knows of others while the registry does not answer, and when one that is not listed is gone."""

import asyncio
import logging
import warnings
from typing import Any

import pytest
import ray

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.known_processes import RETURN_SECONDS, Absences, KnownProcesses
    from cluster.processes.service_registry import Announcement

ONE = Announcement("router", 0, "r", "n", 1, "ready")
GONE = ray.exceptions.RayActorError()


class Registry:
    """Answers what it is told, or raises it; a handle of the actor, and its only method."""

    def __init__(self, *answers: object) -> None:
        self.announcements = self
        self.answers = list(answers)

    def remote(self) -> Any:
        return self.answers.pop(0)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []

    def get(answer: object, timeout: float) -> object:
        seen.append(timeout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    return seen


def test_what_it_said_last_stays_while_it_is_silent(caplog: pytest.LogCaptureFixture, limits: list[float]) -> None:
    known = KnownProcesses(Registry(GONE, [ONE], GONE, ray.exceptions.GetTimeoutError("late"), []))
    with caplog.at_level(logging.WARNING):
        answers = [known.ask() for _ in range(5)]
    assert answers == [[], [ONE], [ONE], [ONE], []]
    assert len(caplog.messages) == 2, "one line for each time that it falls silent"
    assert max(limits) <= 1.0, "whoever asks has peers to watch"


async def test_the_same_on_an_event_loop() -> None:
    async def answer(value: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    known = KnownProcesses(Registry(answer([ONE]), answer(GONE)))
    assert await known.await_answer() == [ONE]
    assert await known.await_answer() == [ONE]
    silent = KnownProcesses(Registry(asyncio.Event().wait()))
    assert await silent.await_answer() == []


def test_one_is_gone_only_after_a_restarted_registry_would_list_it_again() -> None:
    now = 0.0
    absences = Absences(lambda: now)
    assert absences.gone({"a", "b"}, {"a"}) == set()
    now = RETURN_SECONDS - 0.1
    assert absences.gone({"a", "b"}, {"b"}) == set()
    now = RETURN_SECONDS + 1
    assert absences.gone({"a", "b"}, {"b"}) == set(), "a is missing for 1.1 s"
    now = 2 * RETURN_SECONDS
    assert absences.gone({"a", "b"}, {"b"}) == {"a"}

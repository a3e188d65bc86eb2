"""How many threads a shard gets: its share of the cores of its own node, not of the cluster's shards."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from cluster.config import config_from
from cluster.processes.service_registry import Announcement

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes import node_peers, process
    from cluster.processes.node_peers import POLL_SECONDS, shards_here, threads_of_shard

CORES = 16


def announced(index: int, node: str, role: str = "shard", replica: str = "") -> Announcement:
    return Announcement(role, index, replica or f"{role}{index}", node, 1, "loading")


HERE = [announced(0, "a"), announced(1, "b"), announced(2, "a"), announced(3, "c")]
OTHERS = [announced(0, "a", "router"), announced(0, "a", "front")]


class Registry:
    """Answers as Ray's handle of the actor would, through `ray.get` below."""

    def __init__(self, entries: list[Announcement]) -> None:
        self.announcements = self
        self.entries = entries
        self.asked = 0

    def remote(self) -> list[Announcement]:
        self.asked += 1
        return self.entries


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """We are on node a, of 16 cores."""
    monkeypatch.setattr(process, "usable_cores", lambda: CORES)
    monkeypatch.setattr(node_peers, "node_id", lambda: "a")
    monkeypatch.setattr(node_peers.ray, "get", lambda answer, timeout: answer)  # noqa: ARG005 (Ray's name)
    monkeypatch.setattr(node_peers, "WAIT_SECONDS", 0.0)


def threads(entries: list[Announcement], **sections: Any) -> int:
    config = config_from(sections)
    return threads_of_shard(config, Registry(entries), config.experts.shards)


@pytest.mark.parametrize(
    ("entries", "shards", "expected"),
    [
        (HERE + OTHERS, 4, 8),
        ([announced(index, "a" if index < 2 else f"n{index}") for index in range(32)], 32, 8),
        ([announced(index, f"n{index}") for index in range(1, 32)] + [announced(0, "a")], 32, 16),
        ([announced(index, "a") for index in range(4)], 4, 4),
        ([announced(index, "a") for index in range(64)], 64, 1),
    ],
)
def test_a_joined_cluster_shares_out_each_nodes_cores(entries: list[Announcement], shards: int, expected: int) -> None:
    assert threads(entries, experts={"shards": shards}, cluster={"address": "auto"}) == expected


def test_a_machine_of_our_own_has_all_shards_and_asks_nobody() -> None:
    registry = Registry(HERE)
    assert threads_of_shard(config_from({}), registry, 4) == 4
    assert registry.asked == 0


@pytest.mark.parametrize("address", ["", "auto"])
def test_the_key_decides(address: str) -> None:
    assert threads(HERE, experts={"shards": 4, "threads": 3}, cluster={"address": address}) == 3


def test_of_two_lives_the_youngest_counts() -> None:
    """One was moved to another node, another came here."""
    moved = [*HERE, announced(2, "b", replica="new"), announced(3, "a", replica="new")]
    assert shards_here(lambda: moved, "a", 4, wait_s=0.0) == 2


def test_it_waits_for_shards_that_have_not_said_where_they_are() -> None:
    slept: list[float] = []
    answers: Iterator[Iterable[Announcement]] = iter([[], HERE[:2], HERE])
    assert shards_here(lambda: next(answers), "a", 4, wait_s=30.0, sleep=slept.append) == 2
    assert slept == [POLL_SECONDS] * 2


def test_who_stays_silent_counts_as_here() -> None:
    slept: list[float] = []
    assert shards_here(lambda: HERE[:2], "a", 4, wait_s=10.0, clock=lambda: sum(slept), sleep=slept.append) == 3
    assert sum(slept) == 10.0
    assert shards_here(list, "a", 4, wait_s=0.0) == 4


def test_a_registry_that_does_not_answer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise node_peers.ray.exceptions.GetTimeoutError("slow")

    monkeypatch.setattr(node_peers.ray, "get", lost)
    assert threads(HERE, experts={"shards": 4}, cluster={"address": "auto"}) == 4

"""Serve's policy for a shard: runs while the registry says so, and stays as it is while that says nothing."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.serve import shard_policy
from cluster.serve.shard_policy import LOOK_SECONDS, ShardPolicy


class Registry:
    """The actor; an answer is there when `late` is over."""

    def __init__(self) -> None:
        self.run: list[int] | None = [0, 1]
        self.late = self.gone = False
        self.shards_to_run = SimpleNamespace(remote=lambda: self)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()

    def found(name: str, namespace: str) -> Registry:
        assert (name, namespace) == ("registry", "expertmesh")
        if registry.gone:
            raise ValueError(name)
        return registry

    monkeypatch.setattr(ray, "get_actor", found)
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: ([] if registry.late else refs, timeout))
    monkeypatch.setattr(ray, "get", lambda ref: ref.run)
    now = iter(range(1000))
    monkeypatch.setattr(shard_policy.time, "monotonic", lambda: 100 + next(now) * LOOK_SECONDS)
    return registry


def asked(policy: ShardPolicy, target: int, times: int = 3) -> int:
    context: Any = SimpleNamespace(target_num_replicas=target)
    return [policy(context)[0] for _ in range(times)][-1]


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.usefixtures("registry")
def test_it_runs_as_the_registry_says(target: int) -> None:
    assert [asked(ShardPolicy("registry", index), target) for index in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("target", [0, 1])
def test_all_stays_while_nobody_has_said(registry: Registry, target: int) -> None:
    policies = [ShardPolicy("registry", index) for index in range(3)]
    registry.run = None
    assert [asked(policy, target) for policy in policies] == [target] * 3


def test_it_waits_for_no_answer_and_goes_by_the_last(registry: Registry) -> None:
    policy = ShardPolicy("registry", 2)
    registry.late = True
    assert asked(policy, 1) == 1
    registry.late = False
    assert asked(policy, 1) == 0
    registry.late, registry.run = True, [2]
    assert asked(policy, 0) == 0
    registry.late = False
    assert asked(policy, 0) == 1


def test_a_registry_that_is_gone_changes_nothing(registry: Registry) -> None:
    policy = ShardPolicy("registry", 2)
    assert asked(policy, 1) == 0
    registry.gone = True
    assert asked(policy, 1, times=4) == 1

"""A shard loads what the map gives it, and before the registry is there what it will most likely say."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from experts.placement import Placement, even_placement
from experts.shard.held.loader import ExpertLoader
from experts.shard.shard import ExpertShard, load_shard
from kernels import select
from tests.support.mesh import CPU, CREDENTIALS, NODE, until
from tests.support.tiny import Tiny
from tests.unit.experts.frame_servers import expert_server

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    import ray

    from cluster.processes import registered_process
    from cluster.processes.maps import map_follower
    from cluster.processes.maps.map_view import Asker
    from cluster.processes.maps.migration import Migration
    from cluster.processes.maps.placement_maps import Layout
    from cluster.processes.service_registry import Announcement, ServiceRegistry
    from cluster.serve import shard_replica

EXPERTS, SHARDS = 7, 2
LAYOUT = Layout(EXPERTS, SHARDS, 1, room=EXPERTS)
even = partial(even_placement, EXPERTS, SHARDS, room=EXPERTS)


class Actor:
    """The registry as its processes see it, which does not answer before `answers` more calls for the map."""

    def __init__(self, answers: int = 0) -> None:
        self.body, self.answers = ServiceRegistry(), answers

    def __getattr__(self, name: str) -> "Method":
        return Method(self, name)


class Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        def call() -> Any:
            if self._name == "map_view" and self._actor.answers:
                self._actor.answers -= 1
                raise ray.exceptions.RayActorError
            return getattr(self._actor.body, self._name)(*arguments)

        return call


class Server:
    """In place of the shard's server."""

    endpoint = None
    computed_s = 0.0

    def __init__(self, shard: ExpertShard, **options: Any) -> None:
        self.shard, self.copy_pace = shard, options["copy_pace"]

    def check_health(self, limit_s: float) -> None:
        assert limit_s > 0


class Replica(shard_replica.ShardReplica):
    def __del__(self) -> None:  # type: ignore[override]
        """Serve awaits it; here there is nobody who would."""


@pytest.fixture
def start(tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ExpertShard]]:
    """Starts shard 1 of two and returns what it serves."""
    servers: list[Server] = []
    processes: list[registered_process.RegisteredProcess] = []
    made = registered_process.RegisteredProcess

    def process(*arguments: Any) -> registered_process.RegisteredProcess:
        processes.append(made(*arguments))
        return processes[-1]

    def server(shard: ExpertShard, **options: Any) -> Server:
        servers.append(Server(shard, **options))
        return servers[-1]

    def begin(actor: Actor, **balance: Any) -> ExpertShard:
        monkeypatch.setattr(registered_process, "find_registry", lambda _: actor)
        data: dict[str, Any] = {"model": {"checkpoint": str(tiny("qwen3_moe").path), "device": "cpu"}}
        data["balance"] = {"extra_copies": 4.0} | balance
        Replica(data | {"weights": {"resident": "dequantized"}, "experts": {"shards": SHARDS}}, 1, b"secret", bytes(32))
        assert servers[-1].copy_pace.bytes_per_second == (200 << 20)
        return servers[-1].shard

    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())  # noqa: ARG005 (Ray's name)
    monkeypatch.setattr(map_follower, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(map_follower, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(map_follower, "POLL_SECONDS", 0.001)
    for module in (registered_process, shard_replica):
        monkeypatch.setattr(module, "replica_id", lambda: "s")
        monkeypatch.setattr(module, "node_id", lambda: NODE)
    monkeypatch.setattr(registered_process, "set_logging", lambda *_: None)
    monkeypatch.setattr(shard_replica, "RegisteredProcess", process)
    monkeypatch.setattr(shard_replica, "ExpertServer", server)
    monkeypatch.setattr(shard_replica, "data_host", lambda _: "127.0.0.1")
    monkeypatch.setattr(shard_replica, "credentials_of", lambda *_: CREDENTIALS)
    monkeypatch.setattr(shard_replica, "do_not_preempt", lambda: None)
    yield begin
    for one in processes:
        one.close()


def held(placement: Placement, shard: ExpertShard) -> bool:
    return {*shard.held.values()} == {placement.everywhere.held_by(1)}


@pytest.mark.parametrize("answers", [0, 3])
def test_it_loads_once_whether_or_not_the_registry_is_there(start: Callable[..., ExpertShard], answers: int) -> None:
    actor = Actor(answers)
    shard = start(actor)
    assert held(even(), shard)
    assert (shard.epoch, actor.answers) == (1, 0)
    until(lambda: actor.body.announcements()[0].state == "ready", "it is announced")
    (entry,) = actor.body.announcements()
    assert entry.total_bytes == entry.loaded_bytes == shard.weights_bytes


@pytest.mark.parametrize("answers", [0, 1])
def test_it_loads_what_the_map_says_in_the_end(start: Callable[..., ExpertShard], answers: int) -> None:
    """Also if it was taken for the first map."""
    actor = Actor(answers)
    moved = replace(even(1, (1, 0)), epoch=4)
    actor.body.tell_map(LAYOUT, moved)
    shard = start(actor)
    assert (held(moved, shard), shard.epoch) == (True, 4)
    until(lambda: actor.body.announcements()[0].state == "ready", "it is announced")
    (entry,) = actor.body.announcements()
    assert (entry.epoch, entry.total_bytes) == (4, entry.loaded_bytes)


def test_a_newer_map_counts_at_once(start: Callable[..., ExpertShard]) -> None:
    actor = Actor()
    shard = start(actor)
    actor.body.tell_map(LAYOUT, replace(even(), epoch=2))
    until(lambda: shard.epoch == 2, "it is adopted")


def test_it_loads_what_a_coming_map_gives_it_and_gives_up_the_rest(start: Callable[..., ExpertShard]) -> None:
    """The other shard is not there: a test says in its place that it has prepared."""
    actor, moved = Actor(), even(1, (1, 0))
    shard = start(actor)
    until(lambda: actor.body.announcements()[0].state == "ready", "it is announced")
    before = even().everywhere.held_by(1)
    epoch = actor.body.propose(LAYOUT, moved, 1, "a test")
    until(lambda: actor.body.announcements()[0].prepared == epoch, "it has prepared")
    assert {*shard.held.values()} == {tuple(sorted({*before, *moved.everywhere.held_by(1)}))}
    assert shard.epoch == 1
    other = Announcement("shard", 0, "o", "n", 1, "ready", prepared=epoch)

    def switched() -> bool:
        actor.body.announce(other)
        actor.body.map_view(LAYOUT, 1, Asker("shard", "o"))
        return held(moved, shard)

    until(switched, "it gives up what it held before")
    assert shard.epoch == epoch
    until(lambda: actor.body.announcements()[0].prepared == 0, "that is over")


def test_a_coming_map_that_is_given_up_leaves_everything_as_it_was(start: Callable[..., ExpertShard]) -> None:
    actor = Actor()
    shard = start(actor)
    until(lambda: actor.body.announcements()[0].state == "ready", "it is announced")
    epoch = actor.body.propose(LAYOUT, even(1, (1, 0)), 1, "a test")
    until(lambda: actor.body.announcements()[0].prepared == epoch, "it has prepared")
    actor.body.abandon(LAYOUT, epoch, "a test ends it")
    until(lambda: held(even(), shard), "it gives up what it has loaded")
    assert shard.epoch == 1


def test_what_has_no_room_is_refused(start: Callable[..., ExpertShard]) -> None:
    actor = Actor()
    start(actor, extra_copies=0.0)
    until(lambda: actor.body.announcements()[0].state == "ready", "it is announced")
    epoch = actor.body.propose(LAYOUT, even(2), 1, "a test")

    def migration() -> Migration:
        found = actor.body.migration(LAYOUT)
        assert found is not None
        return found

    until(lambda: migration().state == "failed", "it is given up")
    assert migration().epoch == epoch
    assert "shard 1 refuses: BudgetError: shard 1 cannot hold" in migration().reason


@pytest.mark.parametrize("copy_from", ["peer", "auto"])
def test_experts_come_from_the_shard_that_holds_them(
    start: Callable[..., ExpertShard],
    tiny: Callable[..., Tiny],
    monkeypatch: pytest.MonkeyPatch,
    copy_from: str,
) -> None:
    """By its entry; of a plain checkpoint on the same node only where that is asked for."""
    actor, plan, read = Actor(), tiny("qwen3_moe").plan, list[tuple[int, int]]()
    whole = load_shard(
        index=0,
        placement=even(),
        checkpoint=plan.checkpoint,
        manifest=plan.tensors.experts,
        dtype=torch.float32,
        device=CPU,
        ops=select.ops("auto", CPU),
    )
    giver = expert_server(whole)
    actor.body.announce(Announcement("shard", 0, "o", NODE, 1, "ready", endpoint=giver.endpoint))
    shard = start(actor, copy_from=copy_from)
    monkeypatch.setattr(ExpertLoader, "read", noting(ExpertLoader.read, read))
    epoch = actor.body.propose(LAYOUT, even(2), 1, "a test")
    until(lambda: any(one.prepared == epoch for one in actor.body.announcements()), "it has prepared")
    giver.close()
    assert {*shard.held.values()} == {tuple(range(EXPERTS))}
    news = {(layer, expert) for layer in shard.held for expert in whole.held[layer]}
    assert set(read) == (news if copy_from == "auto" else set())


def noting(read: Callable[..., Any], noted: list[tuple[int, int]]) -> Callable[..., Any]:
    def reading(self: ExpertLoader, layer: int, expert: int) -> Any:
        noted.append((layer, expert))
        return read(self, layer, expert)

    return reading

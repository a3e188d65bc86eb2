"""Which new processes an update in place starts before the old ones end, and when a Front takes over from another."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config import ClusterConfig, config_from
from cluster.planner.model import ServedModel, open_model
from tests.support.tiny import write_checkpoint

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.service_registry import Announcement
    from cluster.serve.update.surge import Found, Surge, decide
    from cluster.serve.update.takeover import elders, has_follower, shares_port

GIB = 1 << 30
PLENTY = {"CPU": 8.0, "GPU": 8.0, "em_shard": 1.0, "em_router": 1.0, "em_front": 1.0}
PLACES = {"front_resource": "em_front", "router_resource": "em_router", "shard_resource": "em_shard"}


def entry(role: str, replica: str, node: str = "n", state: str = "ready", shares: bool = True) -> Announcement:
    return Announcement(role, 0, replica, node, 1, state, shares_port=shares and role == "front")


RUNNING = (entry("shard", "s"), entry("router", "r"), entry("front", "f"))


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    write_checkpoint(tmp_path, "mixtral")
    return open_model(config(tmp_path).model, config(tmp_path).weights)


def config(checkpoint: Path, **cluster: Any) -> ClusterConfig:
    return config_from(
        {
            "model": {"checkpoint": str(checkpoint), "device": "cpu"},
            "weights": {"resident": "dequantized"},
            "experts": {"shards": 2},
            "cluster": PLACES | {"address": "auto"} | cluster,
        }
    )


def found(free: dict[str, float] = PLENTY, node_bytes: tuple[int, ...] = (64 * GIB,), fronts: bool = True) -> Found:
    entries = [replace(one, shares_port=one.shares_port and fronts) for one in RUNNING]
    return Found(entries, free, node_bytes)


def test_where_there_is_room_all_new_processes_come_first(tmp_path: Path, model: ServedModel) -> None:
    assert decide(config(tmp_path), model, found()) == Surge(True, True, True)


@pytest.mark.parametrize(
    ("lacks", "expected", "reason"),
    [
        ("CPU", Surge(False, False, True), "no CPU is free for another shard"),
        ("em_shard", Surge(False, True, True), "no em_shard is free for another shard"),
        ("em_router", Surge(True, False, True), "no em_router is free for another router"),
        ("em_front", Surge(True, True, False), "no em_front is free for another Front"),
    ],
)
def test_what_has_no_resource_left_ends_first(
    tmp_path: Path, model: ServedModel, lacks: str, expected: Surge, reason: str
) -> None:
    free = {name: number for name, number in PLENTY.items() if name != lacks}
    decided = decide(config(tmp_path), model, found(free))
    assert replace(decided, reasons=()) == expected
    assert reason in decided.reasons


def test_memory_must_hold_the_new_beside_the_old_on_the_fullest_node(tmp_path: Path, model: ServedModel) -> None:
    decided = decide(config(tmp_path), model, found(node_bytes=(64 * GIB, GIB // 2)))
    assert replace(decided, reasons=()) == Surge(False, False, True)
    assert "a node has 512.0 MiB free, the new processes may need" in decided.reasons[0]
    assert replace(decide(config(tmp_path), model, found(node_bytes=(GIB // 4,))), reasons=()) == Surge()
    assert decide(config(tmp_path), model, found(node_bytes=())).reasons == ("no node says how much memory it has",)


def test_a_front_that_has_its_port_alone_ends_first(tmp_path: Path, model: ServedModel) -> None:
    for mode in ("auto", "on"):
        decided = decide(config(tmp_path, surge=mode), model, found(fronts=False))
        assert decided == Surge(True, True, False, ("the Fronts that run do not share their port",))


def test_on_asks_for_no_room(tmp_path: Path, model: ServedModel) -> None:
    assert decide(config(tmp_path, surge="on"), model, found({}, ())) == Surge(True, True, True)


def test_ports_are_shared_only_where_an_update_may_come(tmp_path: Path) -> None:
    assert shares_port(config(tmp_path))
    assert not shares_port(config(tmp_path, surge="off"))
    assert not shares_port(config(tmp_path, address=""))


def test_a_front_hands_over_to_a_younger_one_on_its_node_only() -> None:
    old, new = entry("front", "old"), entry("front", "new")
    assert has_follower([old, new], "old")
    assert not has_follower([old, new], "new")
    assert not has_follower([old, entry("front", "new", state="loading")], "old")
    assert not has_follower([old, entry("front", "new", node="elsewhere")], "old")
    assert not has_follower([entry("front", "old", shares=False), new], "old")
    assert not has_follower([old, entry("router", "new")], "old")
    assert not has_follower([new], "unlisted")


def test_a_front_takes_over_from_one_that_shares_its_port_here() -> None:
    old, elsewhere = entry("front", "old"), entry("front", "far", node="elsewhere")
    alone, ours = entry("front", "alone", shares=False), entry("front", "ours")
    listed = [old, elsewhere, alone, entry("shard", "shard"), ours]
    assert elders(listed, "ours", "n") == [old]

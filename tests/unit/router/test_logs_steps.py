"""A request's id from a router to its shards: they know a step's tag, and the router says whose requests it had."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experts.host.log import MAX_IDS, LoggingConfig
from router_service.router.step_log import StepLog
from tests.support.mesh import Mesh, greedy, until
from tests.support.tiny import Tiny

Lines = Callable[[str, str], list[dict[str, Any]]]
SLOW_S = 0.04


@pytest.fixture
def mesh(tiny: Callable[..., Tiny]) -> Iterator[Mesh]:
    """Shard 1 takes longer than a call may that is not slow."""
    with Mesh(tiny("mixtral").plan, 2, "unix", delays={1: 0.05}, slow_call_s=SLOW_S) as mesh:
        yield mesh


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """`lines(logger, message)`: the values of all such lines."""
    caplog.set_level(logging.DEBUG)

    def found(logger: str, message: str) -> list[dict[str, Any]]:
        records = [r for r in caplog.records if r.name == logger and r.getMessage().startswith(message)]
        return [{"level": record.levelname, **getattr(record, "fields", {})} for record in records]

    return found


def watch(mesh: Mesh, **config: float) -> None:
    """Log as a router does."""
    mesh.engine.observe = StepLog(LoggingConfig(**config)).observe  # type: ignore[arg-type]


def test_a_slow_call_is_logged_by_its_shard_and_with_the_ids_by_its_router(
    tiny: Callable[..., Tiny], lines: Lines
) -> None:
    """Shard 0 takes no time by its own clock, however long a busy machine keeps it."""
    begun, stopped = time.monotonic(), time.monotonic_ns()
    slow = {"delays": {1: 0.05}, "slow_call_s": SLOW_S}
    with Mesh(tiny("mixtral").plan, 2, "unix", clocks={0: lambda: stopped}, **slow) as mesh:
        check_slow_calls(mesh, lines, begun)


def check_slow_calls(mesh: Mesh, lines: Lines, begun: float) -> None:
    watch(mesh, slow_call_seconds=SLOW_S)
    mesh.submit([5, 6, 7], greedy(3), request_id="a")
    mesh.submit([8], greedy(1), request_id="b")
    mesh.drain()
    by_router, elapsed = lines("router_service.router.step_log", "slow call"), time.monotonic() - begun
    assert [line["request_ids"] for line in by_router] == [["a", "b"], ["a"], ["a"]]
    # A shard logs after it has answered.
    steps = lambda: {line["step"] for line in lines("experts.shard.server", "slow call")}  # noqa: E731
    until(lambda: steps() == {line["step"] for line in by_router}, "the shard has logged its calls")
    assert len(steps()) == 3
    by_shard, layers = lines("experts.shard.server", "slow call"), len(mesh.engine.backbone.sparse_layers)
    assert 0 < len(by_shard) <= 3 * layers
    assert all(
        SLOW_S < line["compute_seconds"] < line["compute_seconds"] + line["queue_seconds"] < elapsed
        for line in by_shard
    )
    assert all(line["shards"] == [1] for line in by_router)
    assert not lines("router_service.router.step_log", "step")


def test_a_quick_step_is_silent_and_its_calls_are_not_looked_at(
    tiny: Callable[..., Tiny], lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Mesh(tiny("mixtral").plan, 2, "unix", slow_call_s=1000.0) as mesh:
        watch(mesh, slow_call_seconds=1000.0, slow_step_seconds=1000.0)
        mesh.generate([[5, 6]], greedy(2))
    assert not lines("experts.shard.server", "")
    assert not lines("router_service.router.step_log", "")


def test_a_slow_step_is_logged_where_no_call_was_slow(mesh: Mesh, lines: Lines) -> None:
    watch(mesh, slow_step_seconds=SLOW_S, slow_call_seconds=1000.0)
    mesh.submit([5], greedy(1), request_id="a")
    mesh.drain()
    (line,) = lines("router_service.router.step_log", "slow step")
    assert (line["level"], line["request_ids"], line["kind"], line["tokens"]) == ("WARNING", ["a"], "prefill", 1)
    assert line["seconds"] > SLOW_S


def test_debug_names_every_step_and_a_line_holds_a_bounded_number_of_ids(
    tiny: Callable[..., Tiny], lines: Lines
) -> None:
    with Mesh(tiny("mixtral").plan, 2, max_sequences=100) as mesh:
        watch(mesh)
        mesh.generate([[5]] * (MAX_IDS + 6), greedy(1))
    (line,) = lines("router_service.router.step_log", "step")
    assert (line["level"], line["requests"], len(line["request_ids"])) == ("DEBUG", MAX_IDS + 6, MAX_IDS)


def test_a_failure_is_logged_on_both_sides_and_the_stalled_are_counted(
    mesh: Mesh, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("a bug")

    mesh.submit([5, 6, 7], greedy(2), request_id="a")
    mesh.submit([9], greedy(2), request_id="b")
    with monkeypatch.context() as patch:
        patch.setattr(mesh.servers.shards[0], "compute", broken)
        assert mesh.engine.step() == []
    mesh.drain()
    (failed,) = lines("experts.shard.server", "could not compute a layer")
    (lost,) = lines("router_service.engine.stall_log", "shard 0 lost")
    (back,) = lines("router_service.engine.stall_log", "shards are back")
    assert (failed["level"], lost["level"], back["level"]) == ("ERROR", "WARNING", "INFO")
    assert failed["step"] == lost["step"]
    assert (lost["stalled"], sorted(lost["request_ids"])) == (2, ["a", "b"])
    assert (back["stalled"], back["shards"]) == (2, [0])


def test_two_routers_have_different_steps(tiny: Callable[..., Tiny]) -> None:
    tags = []
    for _ in range(2):
        with Mesh(tiny("mixtral").plan, 2) as mesh:
            mesh.generate([[5]], greedy(2))
            tags += [record.tag for record in mesh.records]
    assert tags[1] == tags[0] + 1
    assert tags[3] == tags[2] + 1
    assert tags[0] >> 32 != tags[2] >> 32


def test_a_connector_says_when_a_shard_comes_and_goes(mesh: Mesh, lines: Lines) -> None:
    connector = mesh.connector
    assert connector is not None
    until(lambda: connector.up(1), "it has answered once, so that it can be missed")
    mesh.servers.running[1].close()
    until(lambda: bool(lines("experts.watch.connector", "shard 1 is lost")), "it is missed")
    mesh.servers.start(1)
    until(lambda: bool(lines("experts.watch.connector", "shard 1 is connected")), "it is back")
    assert not lines("experts.watch.connector", "shard 0")

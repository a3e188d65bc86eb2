"""`expertmesh rebalance` and `scale`, and the balancer in `status`, against a live Front."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.balance.placement_file import write_placement
from experts.placement import LayerPlacement, Placement
from router_service.protocol.balance import BalanceRefusal, BalanceReport, PlanReport, RebalanceOutcome
from tests.unit.front.commands import ROOT, command, start
from tests.unit.front.front_fakes import report, until
from tests.unit.front.front_world import World
from tests.unit.front.operator import PLACEMENT, PLAN, FakeControlPlane, operated
from tests.unit.front.shard_reports import shard

DONE = PlanReport(
    epoch=4, state="done", copies_added=12, copies_dropped=4, bytes=36 << 20, began=5.0, ended=8.0, predicted_gain=0.18
)
FAILED = PlanReport(epoch=4, state="failed", reason="shard 1 has no room", began=5.0, ended=6.0, predicted_gain=0.18)
KEPT = RebalanceOutcome("kept", "it gains 1%", None, PLACEMENT)
PLANNED = RebalanceOutcome("planned", "shard 0 is the slowest", PlanReport(epoch=0, state="planned"), PLACEMENT)


async def target_of(world: World, control: FakeControlPlane | None = None, *plans: PlanReport) -> str:
    await operated(world, control or FakeControlPlane())
    world.balance = BalanceReport(epoch=3, plans=list(plans), shards=2, last_run=time.time())
    return f"127.0.0.1:{world.server.grpc_port}"


def placement_file(path: Path) -> Path:
    layer = LayerPlacement(((0,), (1,), (0, 1), (1,)))
    path.write_text(write_placement(Placement(2, layer), (0, 1)))
    return path


async def test_a_move_is_followed_to_its_end(world: World) -> None:
    target = await target_of(world, None, PLAN)
    process = await start("rebalance", target=target)
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(3)]
    assert lines == [
        "moving: shard 0 is the slowest\n",
        "copies: 12 new, 4 dropped, 36.0 MiB to read; gain: 18.0% predicted\n",
        "epoch 4, preparing, shards load: 0 of 0 have loaded\n",
    ]
    world.balance = BalanceReport(epoch=4, plans=[DONE])
    out, err = await process.communicate()
    assert out.decode() == (
        "epoch 4, done in 3.00 s: copies: 12 new, 4 dropped, 36.0 MiB to read; gain: 18.0% predicted, "
        "not measured yet\n"
    )
    assert (process.returncode, err) == (0, b"")


async def test_a_move_that_fails_is_an_error(world: World) -> None:
    target = await target_of(world, None, FAILED)
    code, out, err = await command("rebalance", target=target)
    assert (code, out.splitlines()[0]) == (1, "moving: shard 0 is the slowest")
    assert err == ("expertmesh: epoch 4, failed after 1.00 s: shard 1 has no room; the placement before stays\n")


@pytest.mark.parametrize(("plan", "code"), [(DONE, 0), (FAILED, 1)])
async def test_json_is_one_object_with_the_plan_as_it_ended(world: World, plan: PlanReport, code: int) -> None:
    target = await target_of(world, None, plan)
    got, out, _ = await command("rebalance", "--json", target=target)
    assert (got, out.count("\n")) == (code, 1)
    answer = json.loads(out)
    assert (answer["result"], answer["plan"]["state"]) == ("moving", plan.state)
    assert (answer["plan"]["bytes"], answer["plan"]["measured_gain"]) == (plan.bytes, None)
    assert bool(answer["problem"]) == bool(code)


async def test_no_wait_returns_when_it_has_begun(world: World) -> None:
    target = await target_of(world, None, PLAN)
    code, out, err = await command("rebalance", "--no-wait", target=target)
    assert (code, out.count("\n"), err) == (0, 2, "")


@pytest.mark.parametrize(("outcome", "flags"), [(KEPT, ()), (PLANNED, ("--dry-run",)), (KEPT, ("--pin",))])
async def test_what_moves_nothing_is_not_waited_for(
    world: World, outcome: RebalanceOutcome, flags: tuple[str, ...]
) -> None:
    target = await target_of(world, FakeControlPlane(rebalance=outcome))
    code, out, err = await command("rebalance", *flags, target=target)
    assert (code, out.splitlines()[0], err) == (0, f"{outcome.result}: {outcome.reason}", "")
    code, out, _ = await command("rebalance", "--json", *flags, target=target)
    assert (code, json.loads(out)["plan"] is None) == (0, outcome.plan is None)


async def test_flags_reach_the_control_plane(world: World, tmp_path: Path) -> None:
    control = FakeControlPlane(rebalance=KEPT)
    target = await target_of(world, control)
    given = placement_file(tmp_path / "given.json")
    for flags in (("--dry-run",), ("--placement", str(given), "--pin"), ("--unpin",)):
        assert (await command("rebalance", *flags, target=target))[0] == 0
    assert control.asked == [
        ("rebalance", True, "", None),
        ("rebalance", False, given.read_text(), True),
        ("rebalance", False, "", False),
    ]


async def test_the_placement_is_saved(world: World, tmp_path: Path) -> None:
    target = await target_of(world, FakeControlPlane(rebalance=KEPT))
    file = tmp_path / "saved.json"
    file.write_text("before")
    assert (await command("rebalance", "--save", str(file), target=target))[0] == 0
    assert file.read_text() == PLACEMENT
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["missing/saved.json", "."])
async def test_what_cannot_be_saved_is_not_begun(world: World, tmp_path: Path, place: str) -> None:
    control = FakeControlPlane()
    target = await target_of(world, control)
    code, out, err = await command("rebalance", "--save", str(tmp_path / place), target=target)
    assert (code, out, err.count("\n"), control.asked) == (2, "", 1, [])
    assert f"cannot write {tmp_path / place}" in err


async def test_a_refusal_leaves_the_file_as_it_was(world: World, tmp_path: Path) -> None:
    target = await target_of(world, FakeControlPlane(rebalance=BalanceRefusal("precondition", "a move is on")))
    file = tmp_path / "saved.json"
    file.write_text("before")
    code, out, err = await command("rebalance", "--save", str(file), target=target)
    assert (code, out) == (1, "")
    assert "FAILED_PRECONDITION: a move is on (request " in err
    assert (file.read_text(), list(tmp_path.iterdir())) == ("before", [file])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dry-run", "--pin"), "--dry-run changes nothing: leave out --pin and --unpin"),
        (("--pin", "--unpin"), "argument --unpin: not allowed with argument --pin"),
        (("--timeout", "0"), "--timeout: must be over 0, is 0"),
        (("--timeout", "nan"), "--timeout: must be over 0, is nan"),
        (("--placement", "/nowhere/at.json"), "/nowhere/at.json: cannot be read: No such file or directory"),
        (("--placemnt", "x"), "did you mean --placement?"),
        (("surplus",), "unrecognized arguments: surplus"),
    ],
)
async def test_wrong_flags_are_one_line(world: World, flags: tuple[str, ...], message: str) -> None:
    control = FakeControlPlane()
    target = await target_of(world, control)
    code, out, err = await command("rebalance", *flags, target=target)
    assert (code, out, err.count("\n"), control.asked) == (2, "", 1, [])
    assert message in err


async def test_a_placement_that_is_none_names_its_file(world: World, tmp_path: Path) -> None:
    control = FakeControlPlane()
    target = await target_of(world, control)
    file = tmp_path / "wrong.json"
    file.write_text('{"format": "other"}')
    code, _, err = await command("rebalance", "--placement", str(file), target=target)
    assert (code, err.count("\n"), control.asked) == (2, 1, [])
    assert err.startswith(f"expertmesh: {file}: format is other")


async def test_an_interrupt_while_waiting_ends_in_silence(world: World) -> None:
    target = await target_of(world, None, PLAN)
    process = await start("rebalance", target=target)
    assert process.stdout is not None
    for _ in range(3):
        await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


async def test_a_move_that_takes_too_long_goes_on_alone(world: World) -> None:
    target = await target_of(world, None, PLAN)
    code, _, err = await command("rebalance", "--timeout", "0.1", target=target)
    assert code == 1
    assert "the move to epoch 4 has not ended within 0.1 s; it goes on" in err


async def test_nobody_there_is_one_line() -> None:
    for words in (("rebalance",), ("scale", "--shards", "3")):
        code, out, err = await command(*words, "--target", "127.0.0.1:1")
        assert (code, out, err.count("\n")) == (2, "", 1)


def reported(world: World, *indexes: int, experts: int = 8) -> None:
    world.routers[0].say(report(shards=[shard(index, experts=experts) for index in indexes]))


async def test_scale_is_followed_until_all_shards_serve(world: World) -> None:
    control = FakeControlPlane(scale=(2, 3))
    target = await target_of(world, control)
    reported(world, 0, 1)
    await until(lambda: bool(world.server.router_pool.reports))
    process = await start("scale", "--shards", "3", target=target)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"shards wanted: 3, before: 2\n"
    assert await process.stdout.readline() == b"shards ready: 2 of 3, with experts: 2, there: 2\n"
    world.balance = BalanceReport(epoch=4, plans=[DONE], shards=3)
    reported(world, 0, 1, 2)
    out, err = await process.communicate()
    assert (process.returncode, out.splitlines()[-1], err) == (0, b"done: 3 shards serve", b"")
    assert control.asked == [("scale", 3)]


async def test_scale_as_json_and_without_waiting(world: World) -> None:
    target = await target_of(world, FakeControlPlane(scale=(3, 2)))
    code, out, _ = await command("scale", "--shards", "2", "--json", "--no-wait", target=target)
    assert (code, json.loads(out)) == (0, {"before": 3, "shards": 2, "counted": None, "problem": ""})
    reported(world, 0, 1)
    await until(lambda: bool(world.server.router_pool.reports))
    code, out, _ = await command("scale", "--shards", "2", "--json", target=target)
    assert (code, json.loads(out)["counted"]) == (0, {"wanted": 2, "ready": 2, "holding": 2, "there": 2})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "the following arguments are required: --shards"),
        (("--shards", "0"), "--shards: must be at least 1 and below 2^32, is 0"),
        (("--shards", "-2"), "--shards: must be at least 1 and below 2^32, is -2"),
        (("--shards", str(1 << 32)), "--shards: must be at least 1 and below 2^32"),
        (("--shards", "two"), "argument --shards: invalid int value: 'two'"),
        (("--shards", "2", "--timeout", "-1"), "--timeout: must be over 0, is -1"),
    ],
)
async def test_a_wrong_number_of_shards_is_one_line(world: World, flags: tuple[str, ...], message: str) -> None:
    control = FakeControlPlane()
    target = await target_of(world, control)
    code, out, err = await command("scale", *flags, target=target)
    assert (code, out, err.count("\n"), control.asked) == (2, "", 1, [])
    assert message in err


async def test_too_many_shards_are_the_servers_to_refuse(world: World) -> None:
    problem = BalanceRefusal("invalid", "shards is 9, it must be from 1 to 8: see experts.most_shards")
    target = await target_of(world, FakeControlPlane(scale=problem))
    code, out, err = await command("scale", "--shards", "9", target=target)
    assert (code, out) == (2, "")
    assert "INVALID_ARGUMENT: shards is 9, it must be from 1 to 8" in err


async def test_status_shows_what_the_balancer_does(world: World) -> None:
    target = await target_of(world, None, DONE)
    code, out, err = await command("status", target=target)
    assert (code, err) == (0, "")
    assert "placement: epoch 3, moves when told; copies of experts moved: 0; shards: 2 wanted, 0 at most" in out
    assert "last move: epoch 4, done in 3.00 s: copies: 12 new, 4 dropped, 36.0 MiB to read" in out
    code, out, _ = await command("status", "--json", target=target)
    state = json.loads(out)
    assert (code, state["model"], state["balance"]["plans"][0]["epoch"]) == (0, "tiny", 4)
    world.balance = None
    code, out, _ = await command("status", target=target)
    assert (code, out.splitlines()[-1]) == (0, "balancer: not heard yet")


async def test_waiting_ends_in_silence_when_nobody_reads_on(world: World) -> None:
    target = await target_of(world, None, PLAN)
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.cli.main", "rebalance", "--target", target),
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    await asyncio.to_thread(os.read, read, 1)
    os.close(read)
    world.balance = BalanceReport(epoch=4, plans=[DONE])
    _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")

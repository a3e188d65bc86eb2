"""`expertmesh advise`: live, recording, and from a recording without a server."""

import json
from pathlib import Path

import pytest

from cluster.balance.advice import advise
from cluster.balance.judging.recording import load_recording, write_recording
from cluster.cli.client.advise_command import record
from router_service.protocol.balance import BalanceRefusal
from tests.unit.balance.recordings import recording
from tests.unit.front.commands import command
from tests.unit.front.front_world import World
from tests.unit.front.operator import FakeControlPlane, operated

WHOLE = recording(heat=20.0)
ADVICE = advise(WHOLE.windows, WHOLE.supply, WHOLE.current)


async def target_of(world: World, control: FakeControlPlane) -> str:
    await operated(world, control)
    return f"127.0.0.1:{world.server.grpc_port}"


async def test_live_advice_is_printed(world: World) -> None:
    target = await target_of(world, FakeControlPlane(advise=ADVICE.to_json()))
    assert await command("advise", target=target) == (0, f"{ADVICE.text()}\n", "")
    code, out, _ = await command("advise", "--json", target=target)
    assert (code, json.loads(out)) == (0, json.loads(ADVICE.to_json()))


async def test_a_recording_needs_no_server(tmp_path: Path) -> None:
    file = tmp_path / "routed.json"
    file.write_text(write_recording(WHOLE))
    assert await command("advise", "--recording", str(file)) == (0, f"{ADVICE.text()}\n", "")


async def test_what_is_recorded_is_written_and_advised_on(world: World, tmp_path: Path) -> None:
    control = FakeControlPlane(record=write_recording(WHOLE))
    target = await target_of(world, control)
    file = tmp_path / "routed.json"
    result = await command("advise", "--record", str(file), "--seconds", "0.1", target=target)
    assert result == (0, f"{ADVICE.text()}\n", "")
    assert file.read_text() == write_recording(WHOLE)
    assert control.asked == [("record", 0.1)]


async def test_a_long_recording_is_asked_for_in_pieces(world: World) -> None:
    control = FakeControlPlane(record=write_recording(WHOLE))
    await operated(world, control)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        assert len(control.asked) == len(waited) - 1

    whole = await record(world.clients[0], 50.0, sleep)
    assert control.asked == [("record", pytest.approx(50 / 3))] * 3
    assert waited == [pytest.approx(50 / 3)] * 3
    assert len(whole.windows) == 3 * len(WHOLE.windows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--recording", "/nowhere/at.json"), "/nowhere/at.json: cannot be read: No such file or directory"),
        (("--recording", "a", "--record", "b"), "argument --record: not allowed with argument --recording"),
        (("--seconds", "3"), "--seconds is of --record: name the file to record into"),
        (("--record", "/nowhere/at.json"), "cannot write /nowhere/at.json: No such file or directory"),
        (("--record", "x", "--seconds", "0"), "--seconds: must be over 0, is 0"),
        (("--record", "x", "--seconds", "inf"), "--seconds: must be over 0, is inf"),
        (("--record", "x", "--seconds", "soon"), "argument --seconds: invalid float value: 'soon'"),
    ],
)
async def test_wrong_flags_are_one_line(flags: tuple[str, ...], message: str) -> None:
    code, out, err = await command("advise", *flags, "--target", "127.0.0.1:1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


async def test_too_little_traffic_is_one_line(world: World, tmp_path: Path) -> None:
    file = tmp_path / "empty.json"
    file.write_text(write_recording(recording(0)))
    code, out, err = await command("advise", "--recording", str(file))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "record for longer" in err
    target = await target_of(world, FakeControlPlane(advise=BalanceRefusal("precondition", "nothing was routed")))
    code, out, err = await command("advise", target=target)
    assert (code, out) == (1, "")
    assert "FAILED_PRECONDITION: nothing was routed" in err


async def test_a_server_of_another_version_is_one_line(world: World, tmp_path: Path) -> None:
    target = await target_of(world, FakeControlPlane(advise='{"new": 1}', record="{}"))
    code, _, err = await command("advise", target=target)
    assert (code, err.count("\n")) == (2, 1)
    assert "the server's advice is of another version: " in err
    file = tmp_path / "routed.json"
    code, _, err = await command("advise", "--record", str(file), "--seconds", "0.1", target=target)
    assert (code, err.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert "it is no recording" in err


def test_a_recording_file_is_what_a_library_reads(tmp_path: Path) -> None:
    file = tmp_path / "routed.json"
    file.write_text(write_recording(WHOLE))
    assert load_recording(file).seconds == WHOLE.seconds

"""`expertmesh bench` against a live Front."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from router_service.front.auth.tokens import Role, new_token
from tests.unit.front.commands import command, serve, start
from tests.unit.front.front_fakes import echo, refuse, until
from tests.unit.front.front_world import World

SMALL = ("bench", "--input-tokens", "4:9", "--output-tokens", "5")


async def test_a_table_and_json_say_what_was_measured(world: World, tmp_path: Path) -> None:
    target = await serve(world)
    flags = "--requests 6 --concurrency 3 --warmup 2 --goodput ttft:60000 e2el:60000 --connections 2 --token hush"
    code, out, err = await command(*SMALL, *flags.split(), "--json", str(tmp_path / "f"), target=target)
    assert (code, err) == (0, "")
    assert "6 completed, 0 failed" in out
    assert "good requests (ttft 60000 ms, e2el 60000 ms): 100.0%" in out
    result = json.loads((tmp_path / "f").read_text())
    assert (result["completed"], result["total_output_tokens"], result["errors"]) == (6, 30, {})
    assert result["total_input_tokens"] == sum(len(submit.prompt) for submit in world.routers[0].submits[2:])
    assert {request["output_tokens"] for request in result["requests"]} == {5}
    assert result["model"]["name"] == "tiny"
    assert (result["settings"]["input_tokens"], result["settings"]["output_tokens"]) == ("4:9", "5")
    assert "hush" not in json.dumps(result)


async def test_prompts_are_found_in_no_cache_of_another_run(world: World) -> None:
    target = await serve(world)
    for _ in range(2):
        await command(*SMALL, "--requests", "2", "--warmup", "1", target=target)
    await command(*SMALL, "--requests", "1", "--cache-salt", "mine", target=target)
    await command(*SMALL, "--requests", "1", "--cache-salt", "mine", target=target)
    salts = [submit.cache_salt for submit in world.routers[0].submits]
    warm, first, same, warm_again, second, _, mine, mine_again = salts
    assert first == same
    assert len({warm, first, warm_again, second, mine}) == 5
    assert mine == mine_again
    prompts = [submit.prompt for submit in world.routers[0].submits]
    assert prompts[1:3] == prompts[4:6]


async def test_arrivals_and_shared_beginnings(world: World) -> None:
    target = await serve(world)
    flags = "--requests 6 --rate inf --shared-prefix-tokens 20 --shared-prefix-groups 2 --temperature 0.5"
    code, _, err = await command(*SMALL, *flags.split(), target=target)
    assert (code, err) == (0, "")
    submits = world.routers[0].submits
    assert len({tuple(submit.prompt[:20]) for submit in submits}) == 2
    assert {(s.sampling.temperature, s.sampling.ignore_eos, s.sampling.max_tokens) for s in submits} == {(0.5, True, 5)}


async def test_prompts_come_from_a_file_in_order_and_again(world: World, tmp_path: Path) -> None:
    target = await serve(world)
    lines = [{"prompt": "hello"}, {"tokens": [3, 4, 5], "output_tokens": 2}]
    (tmp_path / "f").write_text("\n".join(map(json.dumps, lines)))
    flags = ("--prompts", str(tmp_path / "f"), "--requests", "3", "--output-tokens", "4")
    code, _, err = await command("bench", *flags, target=target)
    assert (code, err) == (0, "")
    hello = await world.clients[0].tokenize("hello")
    found = [(submit.prompt, submit.sampling.max_tokens) for submit in world.routers[0].submits]
    assert found == [(hello, 4), ([3, 4, 5], 2), (hello, 4)]
    assert not world.routers[0].submits[0].sampling.ignore_eos


async def test_failures_are_counted_by_status(world: World) -> None:
    scripts = iter([echo, refuse("RESOURCE_EXHAUSTED", "full"), echo])
    target = await serve(world, script=lambda submit: next(scripts)(submit))
    code, out, err = await command(*SMALL, "--requests", "3", target=target)
    assert (code, err) == (0, "")
    assert "2 completed, 1 failed (RESOURCE_EXHAUSTED 1)" in out


async def test_a_run_without_any_answer_is_an_error(world: World) -> None:
    target = await serve(world, script=refuse("RESOURCE_EXHAUSTED", "full"))
    code, out, err = await command(*SMALL, "--requests", "2", target=target)
    assert code == 2
    assert "0 completed, 2 failed (RESOURCE_EXHAUSTED 2)" in out
    assert err.startswith("expertmesh: no request completed: 2 failed, the first with RESOURCE_EXHAUSTED: ")
    code, out, err = await command(*SMALL, "--warmup", "1", target=target)
    assert (code, out) == (2, "")
    assert err.startswith("expertmesh: no warm-up request completed: ")


async def test_a_missing_token_is_one_line(world: World, tmp_path: Path) -> None:
    token, line = new_token("ann", Role.INFERENCE)
    (tmp_path / "tokens").write_text(line)
    await world.router()
    await world.front(tokens_file=str(tmp_path / "tokens"))
    flags = (*SMALL, "--requests", "1", "--target", f"127.0.0.1:{world.server.grpc_port}")
    code, out, err = await command(*flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "UNAUTHENTICATED: " in err
    assert (await command(*flags, "--token", token))[0] == 0


async def test_an_interrupt_prints_what_was_measured(world: World) -> None:
    target = await serve(world, step_s=0.001)
    process = await start(*SMALL, "--duration", "600", "--concurrency", "2", target=target)
    await until(lambda: len(world.routers[0].submits) > 6)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert b" completed, 0 failed" in out
    assert b"time to first token" in out
    await until(lambda: not world.routers[0].running)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--requests", "0"), "argument --requests/--num-prompts: must be a whole number of at least 1, got '0'"),
        (("--concurrency", "-1"), "must be a whole number of at least 1, got '-1'"),
        (("--rate", "0"), "must be a number over 0, got '0'"),
        (("--rate", "nan"), "must be a number over 0, got 'nan'"),
        (("--duration", "x"), "must be a number over 0, got 'x'"),
        (("--input-tokens", "9:5"), "argument --input-tokens: must be at least 1, and LOW at most HIGH, got '9:5'"),
        (("--goodput", "speed:5"), "argument --goodput: must be NAME:MS"),
        (("--temperature", "-1"), "must be a number of at least 0, got '-1'"),
        (("--json", "/none/f"), "cannot write /none/f: name a file in a folder that exists"),
        (("--chart", "f.txt"), "must end in .png, .svg, .pdf, got 'f.txt'"),
        (("--rate", "inf", "--duration", "5"), "--rate inf: needs --requests"),
        (("--prompts", "/none"), "--prompts: cannot read /none: No such file or directory"),
        (("--output-tokens", "5000"), "tokens of prompt and 5000 of answer are more than the context of 4096"),
        (("--target", "127.0.0.1:1"), "127.0.0.1:1: UNAVAILABLE: "),
        (("--attempts", "9"), "attempts: 9 is not within 1 to 5"),
    ],
)
async def test_what_cannot_be_is_one_line(world: World, arguments: tuple[str, ...], message: str) -> None:
    target = await serve(world)
    code, out, err = await command(*SMALL[:-2], *arguments, target=target)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


async def test_a_picture_is_drawn(world: World, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="an extra: pip install 'expertmesh[chart]'")
    target = await serve(world)
    code, _, err = await command(*SMALL, "--requests", "3", "--chart", str(tmp_path / "f.svg"), target=target)
    assert (code, err) == (0, "")
    assert "<svg" in (tmp_path / "f.svg").read_text()


async def test_a_picture_needs_its_extra_before_anything_is_sent(world: World, tmp_path: Path) -> None:
    target = await serve(world)
    hidden = "import sys; sys.modules['matplotlib'] = None; "
    hidden += "from cluster.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = (*SMALL, "--chart", str(tmp_path / "f.png"), "--target", target)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", hidden, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"pip install 'expertmesh[chart]'" in err
    assert world.routers[0].submits == []


async def test_progress_is_shown_on_a_terminal_alone(world: World) -> None:
    target = await serve(world)
    ours, theirs = pty.openpty()
    arguments = (*SMALL, "--requests", "3", "--target", target)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.cli.main", *arguments), stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    assert process.stdout is not None
    out = await process.stdout.read()
    await process.wait()
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"/3 done" in shown
    assert b"done" not in out

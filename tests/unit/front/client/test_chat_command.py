"""`expertmesh chat` against a live Front: in a pipe, and in a terminal where a user types and interrupts."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.front.parsing.answer_parsers import AnswerParsers
from tests.unit.front.client.terminal import END, INTERRUPT, in_terminal
from tests.unit.front.commands import ROOT, command, serve, start
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.saying import saying


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def talk(target: str, lines: str, *flags: str) -> tuple[int | None, str, str]:
    """What comes of lines in a pipe."""
    process = await start("chat", *flags, target=target, piped=True)
    out, err = await process.communicate(lines.encode())
    return process.returncode, out.decode(), err.decode()


async def asked(world: World, number: int) -> list[int]:
    await until(lambda: len(world.routers[0].submits) > number)
    return world.routers[0].submits[number].prompt


async def test_lines_of_a_pipe_are_turns(world: World) -> None:
    target = await serve(world)
    lines = "hello\n\n/system Be brief.\nfox\n/reset\ndog"
    code, out, err = await talk(target, lines, "--system", "Be long.", "--max-tokens", "2", "--seed", "5")
    assert (code, err) == (0, "")

    first, second, third = out.splitlines()
    assert all((first, second, third))
    tokenize = world.clients[0].tokenize
    expected = [
        [{"role": "system", "content": "Be long."}, user("hello")],
        [{"role": "system", "content": "Be brief."}, user("hello"), assistant(first), user("fox")],
        [{"role": "system", "content": "Be brief."}, user("dog")],
    ]
    assert [await asked(world, number) for number in range(3)] == [await tokenize(messages=each) for each in expected]
    sampling = world.routers[0].submits[0].sampling
    assert (sampling.max_tokens, sampling.seed) == (2, 5)


async def test_the_template_gets_tools_and_variables(world: World, tmp_path: Path) -> None:
    target = await serve(world)
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": {"name": "look"}}]))
    flags = ("--tools", str(tmp_path / "tools.json"), "--template-kwargs", '{"enable_thinking": false}')
    code, _, err = await talk(target, "hello\n", *flags, "--max-tokens", "2")
    assert (code, err) == (0, "")
    assert len(world.routers[0].submits) == 1


THINKS = '<think>Let me see.</think>I look.\n<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
LOOK = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


async def thinking(world: World, tmp_path: Path) -> tuple[str, ...]:
    """A server whose model reasons and calls a tool; returns the flags."""
    (tmp_path / "tools.json").write_text(json.dumps(LOOK))
    world.parsers = AnswerParsers("qwen3", "hermes")
    target = await serve(world, script=saying(world.text.tokenizer, [THINKS, "A fox."]))
    return ("--target", target, "--tools", str(tmp_path / "tools.json"))


@pytest.mark.parametrize(
    ("flag", "shown"), [("--no-reasoning", ""), ("--reasoning", "(reasoning)\nLet me see.\n(answer)\n")]
)
async def test_calls_are_shown_and_get_results(world: World, tmp_path: Path, flag: str, shown: str) -> None:
    flags = await thinking(world, tmp_path)
    code, out, err = await talk("", "what is it?\n/result a fox\n", *flags, flag)
    assert (code, err) == (0, "")
    assert out == f'{shown}I look.\n-> look {{"at": 1}}\nA fox.\n'
    assert len(world.routers[0].submits) == 2


async def test_a_terminal_sees_the_reasoning_dimmed(world: World, tmp_path: Path) -> None:
    flags = await thinking(world, tmp_path)
    async with in_terminal("chat", *flags) as terminal:
        await terminal.until("> ")
        terminal.type("what is it?\r")
        await terminal.until("[/result TEXT says what the tool returned]")
        assert "\x1b[2mLet me see.\x1b[0m" in terminal.raw
        await terminal.until("> ")
        terminal.type("/result a fox\r")
        await terminal.until("A fox.")
        await terminal.until("> ")
        terminal.type(END)
        assert await terminal.ended() == 0


@pytest.mark.parametrize(
    ("lines", "flags", "message"),
    [
        ("hello\n", ("--temperature", "-1"), "INVALID_ARGUMENT: sampling.temperature: "),
        ("hello\n", ("--seed", "-1"), "expertmesh: --seed: out of range: -1"),
        ("", ("--target", "127.0.0.1:1"), "expertmesh: 127.0.0.1:1: UNAVAILABLE: "),
        ("", ("--template-kwargs", "[]"), "argument --template-kwargs: must be a JSON object, got '[]'"),
        ("", ("--template-kwargs", "{"), "argument --template-kwargs: must be a JSON object, got '{': "),
        ("", ("--tools", "/no/such"), "/no/such"),
        ("/owl\n", (), "expertmesh: there is no /owl; /help lists the commands"),
    ],
)
async def test_an_error_is_one_line_and_ends_a_pipe(
    world: World, lines: str, flags: tuple[str, ...], message: str
) -> None:
    target = await serve(world)
    code, out, err = await talk(target, lines + "hello\n", *flags)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]"])
async def test_tools_that_are_none_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "tools").write_text(content)
    code, _, err = await command("chat", "--tools", str(tmp_path / "tools"))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"expertmesh: --tools: {tmp_path}/tools: ")


async def test_a_model_without_a_template_is_refused_at_once(world: World) -> None:
    await world.router()
    client = await world.front(text=replace(world.text, chat=None))
    await client.wait_ready(10)
    code, out, err = await talk(f"127.0.0.1:{world.server.grpc_port}", "hello\n")
    assert (code, out) == (2, "")
    assert (
        err == "expertmesh: the model tiny has no chat template: use `expertmesh generate`, or serve --chat-template\n"
    )


async def test_an_interrupt_ends_a_pipe(world: World) -> None:
    target = await serve(world, step_s=0.01)
    process = await start("chat", "--max-tokens", "3000", target=target, piped=True)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.write(b"hello world\n")
    await process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    await until(lambda: len(world.routers[0].cancels) == 1)


async def test_it_ends_in_silence_when_nobody_reads_on(world: World) -> None:
    target = await serve(world, step_s=0.01)
    read, write = os.pipe()
    program = (sys.executable, "-m", "cluster.cli.main", "chat", "--max-tokens", "3000", "--target", target)
    process = await asyncio.create_subprocess_exec(
        *program, cwd=ROOT, stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert process.stdin is not None
    process.stdin.write(b"hello world\n")
    await asyncio.to_thread(os.read, read, 1)
    os.close(read)
    _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
    await until(lambda: len(world.routers[0].cancels) == 1)


async def test_an_interrupt_ends_the_answer_and_not_the_program(world: World) -> None:
    target = await serve(world, step_s=0.01)
    router = world.routers[0]
    async with in_terminal("chat", "--target", target, "--max-tokens", "3000") as terminal:
        await terminal.until("tiny: /help lists the commands")
        await terminal.until("> ")
        terminal.type("hello world\r")
        await until(lambda: router.running == 1)
        await terminal.until("hello world")  # the line itself
        begun = await terminal.until("hello world") + "hello world"
        terminal.type(INTERRUPT)
        came = begun + (await terminal.until("[interrupted]")).removesuffix("\n").removesuffix("^C")
        await until(lambda: len(router.cancels) == 1)
        await terminal.until("> ")
        terminal.type("/think off\r")
        await terminal.until("thinking is off")
        await terminal.until("> ")
        terminal.type("fox\r")
        prompt = await asked(world, 1)
        messages = [user("hello world"), assistant(came.removeprefix("\n")), user("fox")]
        assert prompt == await world.clients[0].tokenize(messages=messages)
        terminal.type(INTERRUPT)
        await terminal.until("[interrupted]")
        await terminal.until("> ")
        terminal.type(END)
        assert await terminal.ended() == 0


async def test_interrupts_at_the_prompt_leave(world: World) -> None:
    target = await serve(world)
    async with in_terminal("chat", "--target", target) as terminal:
        await terminal.until("> ")
        await terminal.interrupt_editor()
        await terminal.until("Ctrl-C again, Ctrl-D or /quit leaves")
        await terminal.until("> ")
        terminal.type("/help\r")
        await terminal.until("what has come of it stays")
        for _ in range(2):
            await terminal.until("> ")
            await terminal.interrupt_editor()
        assert await terminal.ended() == 130
    assert world.routers[0].submits == []


async def test_errors_of_a_turn_are_said_and_the_talk_goes_on(world: World) -> None:
    target = await serve(world)
    async with in_terminal("chat", "--target", target, "--max-tokens", "4") as terminal:
        await terminal.until("> ")
        terminal.type("/think perhaps\r")
        await terminal.until("expertmesh: /think: must be on or off, got 'perhaps'\n")
        await terminal.until("> ")
        terminal.type("hello " * 5000 + "\r")
        await terminal.until(f"expertmesh: {target}: INVALID_ARGUMENT: chat: has ")
        await terminal.until("> ")
        terminal.type("fox\r")
        assert await asked(world, 0) == await world.clients[0].tokenize(messages=[user("fox")])
        await terminal.until("[cut: no more tokens, see --max-tokens]")
        await terminal.until("> ")
        terminal.type("/quit\r")
        assert await terminal.ended() == 0


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_are_for_those_who_want_them(world: World, environment: dict[str, str], coloured: bool) -> None:
    target = await serve(world)
    async with in_terminal("chat", "--target", target, **environment) as terminal:
        await terminal.until("> ")
        terminal.type(END)
        assert await terminal.ended() == 0
        assert ("\x1b[2m" in terminal.raw, "\x1b[1m" in terminal.raw) == (coloured, coloured)


async def test_complete_is_generate(world: World) -> None:
    target = await serve(world)
    ids = await world.clients[0].tokenize("hello world")
    result = await command("complete", "hello world", "--max-tokens", str(len(ids)), target=target)
    assert result == (0, "hello world\n", "")

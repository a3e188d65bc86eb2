"""`expertmesh generate` and `expertmesh status` against a live Front."""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from cluster.cli.client import answer_json, status_command
from cluster.table import duration, size, table
from router_service.front.api.scheduling import salt_of
from router_service.protocol import cluster_pb2, inference_pb2
from tests.unit.front.commands import ROOT, command, serve, start
from tests.unit.front.degraded import degraded_from
from tests.unit.front.front_fakes import report, until
from tests.unit.front.front_world import World
from tests.unit.front.shard_reports import shard


async def test_generate_streams_the_text(world: World) -> None:
    target = await serve(world)
    ids = await world.clients[0].tokenize("h\u00e9llo world")
    result = await command("generate", "--target", target, "h\u00e9llo world", "--max-tokens", str(len(ids)))
    assert result == (0, "h\u00e9llo world\n", "")


async def test_generate_prints_json(world: World) -> None:
    target = await serve(world)
    flags = "--json --max-tokens 90 --temperature 0.5 --top-p 0.5 --top-k 4 --min-p 0.25 --seed 9 --logprobs 2"
    flags += " --min-tokens 1 --prompt-logprobs 3 --logit-bias 5=-1.5 --logit-bias 7=100"
    arguments = [*flags.split(), "--ignore-eos", "--stop", "zz", "--stop", "END."]
    code, out, err = await command("generate", "hello END. fox", *arguments, target=target)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["text"] == "hello "
    assert answer["finish_reason"] == "STOP"
    assert answer["usage"]["generated_tokens"] == len(answer["token_ids"]) == len(answer["logprobs"])
    assert answer["logprobs"][0]["top"][1]["logprob"] is None
    sampling = world.routers[0].submits[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (90, 0.5, 0.5, 4)
    assert (sampling.min_p, sampling.seed, sampling.ignore_eos, sampling.logprobs) == (0.25, 9, True, 2)
    assert (sampling.min_tokens, sampling.logit_bias) == (1, {5: -1.5, 7: 100.0})
    assert sampling.prompt_logprobs == 3


def test_the_first_prompt_token_has_no_logprob_in_json() -> None:
    entries = [inference_pb2.TokenLogprob(token_id=3), inference_pb2.TokenLogprob(token_id=4, logprob=-0.5)]
    answer = answer_json.summary([inference_pb2.GenerateResponse(prompt_logprobs=entries)])
    assert answer["prompt_logprobs"] == [
        {"token_id": 3, "text": "", "logprob": None},
        {"token_id": 4, "text": "", "logprob": -0.5},
    ]


async def test_generate_sends_priority_and_salt(world: World) -> None:
    target = await serve(world)
    arguments = ("--max-tokens", "1", "--priority", "-7", "--cache-salt", "mine")
    code, _, err = await command("generate", "hello", *arguments, target=target)
    assert (code, err) == (0, "")
    submit = world.routers[0].submits[0]
    assert (submit.priority, submit.cache_salt) == (-7, salt_of("", "mine"))


async def test_generate_sends_its_fallback_and_shows_the_marks(world: World) -> None:
    target = await serve(world, script=degraded_from(2))
    arguments = ("--max-tokens", "4", "--fallback", "next_best", "--json")
    code, out, err = await command("generate", "hello", *arguments, target=target)
    assert (code, err) == (0, "")
    assert world.routers[0].submits[0].fallback == "next_best"
    answer = json.loads(out)
    assert (answer["degraded_token_indexes"], answer["usage"]["degraded_tokens"]) == ([2, 3], 2)


async def test_generate_sends_a_chat(world: World) -> None:
    target = await serve(world)
    code, _, err = await command("generate", "--chat", "hello", "--max-tokens", "1", target=target)
    assert (code, err) == (0, "")
    assert world.routers[0].submits[0].prompt == await world.clients[0].tokenize(
        messages=[{"role": "user", "content": "hello"}]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-p", "2"), "INVALID_ARGUMENT: sampling.top_p: must be over 0 and at most 1, got 2"),
        (("--seed", "-1"), "expertmesh: --seed: out of range: -1"),
        (("--priority", "-101"), "INVALID_ARGUMENT: priority: must be -100 to 100, got -101"),
        (("--priority", "2147483648"), "expertmesh: --priority: out of range: 2147483648"),
        (("--min-tokens", "-1"), "expertmesh: --min-tokens: out of range: -1"),
        (("--logit-bias", "5=101"), "INVALID_ARGUMENT: sampling.logit_bias[5]: must be at least -100"),
        (("--target", "127.0.0.1:1"), "expertmesh: 127.0.0.1:1: UNAVAILABLE: "),
    ],
)
async def test_an_error_is_one_line(world: World, arguments: tuple[str, ...], message: str) -> None:
    target = await serve(world)
    code, out, err = await command("generate", "hello", *arguments, target=target)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("text", ["5", "=1", "a=1", "5=b", "-5=1", f"{1 << 32}=1"])
async def test_a_logit_bias_that_cannot_be_read_is_named(text: str) -> None:
    code, out, err = await command("generate", "hello", f"--logit-bias={text}")
    assert (code, out) == (2, "")
    assert "argument --logit-bias: " in err


async def test_an_interrupt_cancels_the_call(world: World) -> None:
    target = await serve(world, step_s=0.01)
    process = await start("generate", "hello world", "--max-tokens", "4000", target=target)
    assert process.stdout is not None
    await process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    await until(lambda: len(world.routers[0].cancels) == 1)


async def test_generate_ends_in_silence_when_nobody_reads_on(world: World) -> None:
    target = await serve(world, step_s=0.01)
    flags = ("generate", "hello world", "--max-tokens", "4000", "--target", target)
    read, write = os.pipe()
    command = (sys.executable, "-m", "cluster.cli.main", *flags)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    await asyncio.to_thread(os.read, read, 1)
    os.close(read)
    _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
    await until(lambda: len(world.routers[0].cancels) == 1)


async def test_status_shows_shards_and_routers(world: World) -> None:
    target = await serve(world)
    world.routers[0].say(report(shards=[shard(0), shard(1, "unreachable", 0.0, None, last_error="broken pipe")]))
    await until(lambda: bool(world.server.router_pool.reports))
    code, out, err = await command("status", target=target)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["model", "tiny"]
    assert lines[2][:8] == ["shard", "replica", "state", "node", "pid", "experts", "copies", "epoch"]
    assert lines[3][:11] == ["0", "s0", "ready", "n0", "40", "16", "-", "-", "1.0", "MiB", "10.0"]
    assert lines[3][11:13] == ["250.00", "ms"]
    assert lines[4][2] == "unreachable"
    assert lines[7][:5] == ["r0", "1", "2", "25.0%", "50.0"]
    assert "shard 1 s1: broken pipe" in out


async def test_status_says_nothing_of_the_steps_of_a_router_that_took_none(world: World) -> None:
    target = await serve(world)
    world.routers[0].say(report(step_seconds=0.0, decode_tokens_per_second=0.0, overhead_ratio=0.0))
    await until(lambda: bool(world.server.router_pool.reports))
    code, out, _ = await command("status", target=target)
    assert code == 0
    assert out.splitlines()[5].split() == ["r0", "1", "2", "25.0%", "0.0", "-", "-", "-"]


async def test_status_of_nothing_is_one_line() -> None:
    code, out, err = await command("status", "--target", "127.0.0.1:1")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_copies_and_epoch_have_columns() -> None:
    shards = [cluster_pb2.Shard(shard=0, state="ready", copies=2, epoch=7), cluster_pb2.Shard(shard=1, state="loading")]
    header, known, unknown = [
        line.split() for line in status_command.render(cluster_pb2.ClusterState(shards=shards), 0.0).splitlines()[2:5]
    ]
    place = header.index("copies")
    assert header[place + 1] == "epoch"
    assert known[place : place + 2] == ["2", "7"]
    assert unknown[place : place + 2] == ["-", "-"]


def test_an_empty_cluster_renders() -> None:
    assert "shard" in status_command.render(cluster_pb2.ClusterState(model="tiny"), 0.0)


def test_an_answer_without_responses_is_still_json() -> None:
    assert json.dumps(answer_json.summary([]))
    assert answer_json.summary([inference_pb2.GenerateResponse(token_ids=[4], text="x")])["token_ids"] == [4]


def test_defaults_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    def target() -> str:
        parser = argparse.ArgumentParser()
        status_command.add_parser(parser.add_subparsers())
        return str(parser.parse_args(["status"]).target)

    monkeypatch.delenv("EXPERTMESH_TARGET", raising=False)
    assert target() == "127.0.0.1:50051"
    monkeypatch.setenv("EXPERTMESH_TARGET", "host:1")
    assert target() == "host:1"


def test_units() -> None:
    assert [size(0), size(1536), size(3 << 30), size(5 << 40)] == ["0 B", "1.5 KiB", "3.0 GiB", "5.0 TiB"]
    assert [duration(2), duration(0.0125), duration(3e-5)] == ["2.00 s", "12.50 ms", "30 us"]
    assert table(("a", "bb"), [("ccc", "1")]) == "a    bb\nccc   1"

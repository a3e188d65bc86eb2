"""What the launcher promises: a ready line that stays true, a start that can be broken off, a name that is its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from router_service.client.client import Client
from tests.e2e.answers import collect, tokens_of
from tests.e2e.server import descendants_of, environment, gone, serving
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import greedy, write_checkpoint

# Processes end and others start within a test: on a busy machine that takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

PORTS = ("--grpc-port", "0", "--metrics-port", "0", "--http-port", "0")
SECONDS = 200.0
FRONT = "ray::ServeReplica:kept:Front"


async def said(log: Path, pattern: str) -> re.Match[str]:
    """Wait until the server has printed it."""
    async with asyncio.timeout(SECONDS):
        while (found := re.search(pattern, log.read_text(), re.MULTILINE)) is None:
            await asyncio.sleep(0.1)
        return found


async def test_a_killed_front_and_a_hung_shard_come_back_where_they_were(shared_ray: SharedRay, tmp_path: Path) -> None:
    oracle, log = write_checkpoint(tmp_path, "mixtral"), tmp_path / "log"
    arguments = (str(tmp_path), "--shards", "1", *PORTS, *shared_ray.joined_as("kept"))
    with serving(*arguments, log=log) as server:
        (front,) = [pid for pid in shared_ray.descendants() if FRONT in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(front, signal.SIGKILL)
        await said(log, rf"^front \(pid {front}\) is lost$")
        await said(log, r"^front is back \(pid \d+\) after \d+\.\d s$")
        shard = int((await said(log, r"^shard 0: ready.* \(pid (\d+)\)$"))[1])
        os.kill(shard, signal.SIGSTOP)
        await said(log, rf"^shard 0 \(pid {shard}\) is lost$")
        await said(log, r"^shard 0 is back \(pid \d+\) after \d+\.\d s$")
        async with Client(server.target) as client:
            await client.wait_ready(SECONDS)
            answer = await collect(client, tokens=[3, 1, 4], max_tokens=16, temperature=0.0)
    assert tokens_of(answer) == greedy(oracle, [3, 1, 4], 16)


@pytest.mark.parametrize("moment", ["raylet", "ray::ServeController", "ray::ServeReplica:"])
def test_a_signal_breaks_off_a_start_and_leaves_nothing(moment: str, tmp_path: Path) -> None:
    """As soon as such a process is there."""
    write_checkpoint(tmp_path, "mixtral")
    command = [sys.executable, "-m", "cluster.cli.main", "serve", str(tmp_path), "--shards", "2", *PORTS]
    variables = environment() | {"RAY_TMPDIR": str(short := Path(f"/tmp/em-{os.getpid()}"))}
    short.mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables) as process:
        family = until_there(process.pid, moment)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        output, _ = process.communicate(timeout=SECONDS)
        seconds = time.monotonic() - begun
    assert process.returncode == 0, output
    assert output.decode().splitlines()[-1] == "stopping: a signal came before the cluster was ready"
    assert not gone(family)
    assert list((short / "ray").glob("session_*")) == []
    for left in (*(short / "ray").iterdir(), short / "ray", short):
        left.rmdir() if left.is_dir() else left.unlink()
    assert seconds < 30, "a safety only: 3 s on a busy machine"


def until_there(pid: int, word: str) -> set[int]:
    """Wait for a process below `pid` with this word in its command line; return all that are there then."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for one in (family := descendants_of(pid)):
            try:
                if word in Path(f"/proc/{one}/cmdline").read_text():
                    return family
            except OSError:
                continue
        time.sleep(0.02)
    raise AssertionError(f"no {word}")


async def test_a_second_one_of_the_name_is_refused_and_the_first_serves_on(
    shared_ray: SharedRay, tmp_path: Path
) -> None:
    oracle = write_checkpoint(tmp_path, "mixtral")
    arguments = (str(tmp_path), "--shards", "1", *PORTS, *shared_ray.joined_as("taken"))
    with serving(*arguments, log=tmp_path / "log") as server:
        command = [sys.executable, "-m", "cluster.cli.main", "serve", *arguments]
        second = await asyncio.create_subprocess_exec(*command, env=environment(), stderr=subprocess.PIPE)
        _, errors = await asyncio.wait_for(second.communicate(), SECONDS)
        async with Client(server.target) as client:
            answer = await collect(client, tokens=[3, 1, 4], max_tokens=16, temperature=0.0)
        assert server.process.poll() is None
    assert second.returncode == 2
    assert "an application taken is on the Ray at" in errors.decode().splitlines()[-1]
    assert tokens_of(answer) == greedy(oracle, [3, 1, 4], 16)
    assert " is lost" not in (tmp_path / "log").read_text()

"""Updates under 16 streams: in place as Serve does it, with room for both and without, and by a second cluster as
KubeRay does it.
"""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from router_service.client.client import Client
from tests.e2e.load import Load, load
from tests.e2e.ray_head import Ray, free_ports, get, put, ray_head, until_running
from tests.e2e.server import gone, serving
from tests.e2e.service import Backend, service
from tests.support.tiny import greedy, random_prompts, write_checkpoint

# Processes end and others start within a test: on a busy machine that takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

STREAMS, TOKENS = 16, 120
PROMPTS = random_prompts(STREAMS, seed=3)


# Two shards and a router take three; with five, two of the new ones find room beside the old.
@pytest.fixture(params=[3])
def ray(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    params = {"num-cpus": request.param, "object-store-memory": 100_000_000}
    with ray_head(tmp_path_factory.mktemp("r"), params) as started:
        yield started


def application(checkpoint: Path, grpc_port: int, metrics_port: int, **front: Any) -> dict[str, Any]:
    args = {
        "model": {"checkpoint": str(checkpoint)},
        "experts": {"shards": 2},
        "front": {"grpc_port": grpc_port, "metrics_port": metrics_port, "http_port": None, **front},
        "cluster": {"secret_file": str(checkpoint / "secret")},
    }
    one = {"name": "expertmesh", "import_path": "cluster.serve.application:build", "route_prefix": None, "args": args}
    return {"proxy_location": "Disabled", "applications": [one]}


def check(made: Load, oracle: Any) -> None:
    """Nothing was lost, and what came is what the model says."""
    assert made.lost == []
    answers: dict[int, list[int]] = {}
    for which, tokens in made.answers:
        assert len(tokens) == TOKENS
        assert answers.setdefault(which, tokens) == tokens
    for which in (0, 7):
        assert answers[which] == greedy(oracle, PROMPTS[which], TOKENS)


async def until(made: Load, more: int) -> None:
    """Wait until so many more answers have come and all streams run."""
    enough = len(made.answers) + more
    await until_true(lambda: len(made.answers) >= enough and made.running == STREAMS)


async def until_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not condition():
            await asyncio.sleep(0.02)


async def shards(target: str) -> set[int]:
    """The shards' processes; none while no Front answers."""
    async with Client(target) as client:
        with suppress(grpc.aio.AioRpcError):
            return {shard.pid for shard in (await client.cluster(timeout=60)).shards}
    return set()


async def test_a_change_in_place_breaks_no_stream(ray: Ray, tmp_path: Path) -> None:
    """Every process is replaced, each with the only copy of its part: streams end first, new ones wait."""
    oracle = write_checkpoint(tmp_path, "mixtral")
    made = await updated(ray, tmp_path)
    check(made, oracle)


@pytest.mark.parametrize("ray", [5], indirect=True)
async def test_where_both_have_room_a_change_in_place_refuses_nobody(ray: Ray, tmp_path: Path) -> None:
    """The same with two spare CPUs: new processes are there before those that they replace end, the Front's too."""
    oracle = write_checkpoint(tmp_path, "mixtral")
    made = await updated(ray, tmp_path)
    check(made, oracle)
    assert made.refused == []


async def updated(ray: Ray, checkpoint: Path) -> Load:
    """What clients saw of an update in place that replaces every process; it is over, and the cluster serves."""
    (checkpoint / "secret").write_text("what the cluster's processes prove to each other\n")
    ports = free_ports(2)
    put(ray, application(checkpoint, *ports))
    await asyncio.to_thread(until_running, ray)
    target = f"127.0.0.1:{ports[0]}"
    async with load(target, STREAMS, PROMPTS, TOKENS) as made:
        await until(made, STREAMS)
        before = await shards(target)
        assert len(before) == 2
        put(ray, application(checkpoint, *ports, max_pages=7))
        async with asyncio.timeout(200):
            while len((now := await shards(target)) - before) < 2 or now & before:
                await asyncio.sleep(0.2)
        await asyncio.to_thread(until_running, ray)
        await until(made, STREAMS)
    assert json.loads(get(f"http://127.0.0.1:{ports[1]}/healthz"))["status"] == "serving"
    return made


async def test_a_second_cluster_takes_over_and_nobody_notices(tmp_path: Path) -> None:
    """The old cluster gets SIGTERM behind a Service while 16 clients ask: no request is refused, no stream is lost.

    The signal reaches only the process that was started, as from a supervisor, and nothing of the cluster is left.
    """
    oracle = write_checkpoint(tmp_path, "mixtral")
    (tmp_path / "notice.yaml").write_text("cluster: {drain_notice_seconds: 10}\nfront: {http_port: null}\n")
    arguments = (str(tmp_path), "--config", str(tmp_path / "notice.yaml"), "--shards", "1")
    # Both start before the load, which would slow the second's start; only then does the Service hear of it.
    with serving(*arguments, log=tmp_path / "old") as old, serving(*arguments, log=tmp_path / "new") as new:
        async with service() as front:
            front.backends.append(Backend(old.target, old.metrics))
            await until_true(lambda: len(front.ready) == 1)
            async with load(front.target, STREAMS, PROMPTS, TOKENS) as made:
                await until(made, STREAMS)
                front.backends.append(Backend(new.target, new.metrics))
                await until_true(lambda: len(front.ready) == 2)
                await until(made, STREAMS)
                family = old.descendants()
                code = await asyncio.to_thread(old.stop, signal.SIGTERM)
                await until(made, STREAMS)
                made.enough.set()
                await until_true(lambda: made.running == 0)
    assert code == 0
    assert len(family) > 3
    assert not gone(family)
    check(made, oracle)
    assert made.refused == []

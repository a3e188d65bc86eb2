"""Callers without a token that watch health: how many may, and what becomes of those that do not read."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router_service.front.api import health_service
from tests.unit.front.front_fakes import report, until
from tests.unit.front.front_world import World

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
REQUEST = health_pb2.HealthCheckRequest()


@pytest.fixture
async def stub(world: World) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    await world.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def refusal(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read() if hasattr(call, "read") else await call  # type: ignore[misc]
    return caught.value


async def test_a_connection_may_have_so_many_watches(
    world: World, stub: health_pb2_grpc.HealthStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_service, "MAX_WATCHES_OF_CONNECTION", 2)
    watches = [stub.Watch(REQUEST) for _ in range(2)]
    for watch in watches:
        assert (await watch.read()).status == SERVING
    error = await refusal(stub.Watch(REQUEST))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "health is watched by 2 streams of this connection" in str(error.details())
    assert (await stub.Check(REQUEST)).status == SERVING
    watches[0].cancel()
    await until(lambda: world.server.health_service.watches == 1)
    assert (await stub.Watch(REQUEST).read()).status == SERVING


async def test_the_front_has_so_many_watches(
    world: World, stub: health_pb2_grpc.HealthStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_service, "MAX_WATCHES", 1)
    watch = stub.Watch(REQUEST)
    assert (await watch.read()).status == SERVING
    target = f"127.0.0.1:{world.server.grpc_port}"
    async with grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as other:
        error = await refusal(health_pb2_grpc.HealthStub(other).Watch(REQUEST))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_every_watcher_hears_every_change(world: World, stub: health_pb2_grpc.HealthStub) -> None:
    watches = [stub.Watch(REQUEST), stub.Watch(health_pb2.HealthCheckRequest(service="expertmesh.v1.Inference"))]
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="no such service"))
    for ready, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
        world.routers[0].say(report(ready=ready))
        for watch in watches:
            assert (await watch.read()).status == status
    assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    error = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="no such service")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


class Context:
    """A call whose client does not read."""

    def __init__(self) -> None:
        self.written = 0
        self.aborted: list[grpc.StatusCode] = []

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def set_trailing_metadata(self, _: object) -> None: ...

    async def write(self, _: object) -> None:
        self.written += 1
        await asyncio.Event().wait()

    async def abort(self, code: grpc.StatusCode, _: str) -> None:
        self.aborted.append(code)
        await asyncio.Event().wait()


async def test_who_does_not_read_holds_nobody_up_and_loses_its_watch(
    world: World, stub: health_pb2_grpc.HealthStub
) -> None:
    service = health_service.HealthService(world.server.health, patience_s=0.05)
    context = Context()
    deaf = asyncio.create_task(service.Watch(REQUEST, context))  # type: ignore[arg-type]
    await until(lambda: context.written == 1)
    world.routers[0].say(report(ready=False))
    watch = stub.Watch(REQUEST)
    while (await watch.read()).status != NOT_SERVING:
        pass
    await until(lambda: bool(context.aborted))
    assert context.aborted == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert service.watches == 0  # before its status is read, which it may never be
    deaf.cancel()
    await asyncio.gather(deaf, return_exceptions=True)

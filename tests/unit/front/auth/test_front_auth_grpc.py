"""The authentication in front of the gRPC services: who may call what, limits, what is logged and counted."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from router_service.client.client import Client
from router_service.front.auth.authenticator import needed_role
from router_service.front.auth.grpc_interceptor import AuthInterceptor
from router_service.front.auth.refusals import RefusedError
from router_service.front.auth.tokens import Role, new_token
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
LIMITED = {"max_concurrent_streams": 1, "requests_per_minute": 4, "max_request_bytes": 400}


class Door:
    """A Front that asks for tokens, and a client for each of them."""

    def __init__(self, world: World, tokens: dict[str, str]) -> None:
        self.world = world
        self.tokens = tokens

    def client(self, name: str = "") -> Client:
        target = f"127.0.0.1:{self.world.server.grpc_port}"
        self.world.clients.append(Client(target, token=self.tokens.get(name, name)))
        return self.world.clients[-1]

    def refusals(self) -> dict[str, float]:
        (family,) = [
            family
            for family in self.world.server.metrics.registry.collect()
            if family.name == "expertmesh_requests_refused"
        ]
        return {s.labels["reason"]: s.value for s in family.samples if s.name.endswith("_total")}


@pytest.fixture
async def door(world: World, tmp_path: Path) -> Door:
    tokens, lines = {}, []
    for name, role, limits in (("ann", Role.INFERENCE, {}), ("root", Role.ADMIN, {}), ("lim", Role.INFERENCE, LIMITED)):
        tokens[name], line = new_token(name, role)
        lines.append(json.dumps(json.loads(line) | limits))
    (tmp_path / "tokens").write_text("\n".join(lines))
    await world.router(step_s=0.005)
    await world.front(tokens_file=str(tmp_path / "tokens"))
    await world.clients[0].wait_ready(10)  # without a token: health is open
    return Door(world, tokens)


async def code_of(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def reflect(target: str, token: str) -> int:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        metadata = (("authorization", f"Bearer {token}"),)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]), metadata=metadata)]
    return len(answers[0].list_services_response.service)


async def test_inference_may_infer_and_an_admin_may_do_everything(door: Door) -> None:
    target = f"127.0.0.1:{door.world.server.grpc_port}"
    for name in ("ann", "root"):
        client = door.client(name)
        assert len(ids_of(await collect(client, "hello", max_tokens=3))) == 3
        assert await client.detokenize(await client.tokenize("hello")) == "hello"
        assert (await client.model()).name == "tiny"
    assert (await door.client("root").cluster()).model == "tiny"
    assert await reflect(target, door.tokens["root"]) >= 3
    assert (await code_of(door.client("ann").cluster())).code() is DENIED
    assert (await code_of(reflect(target, door.tokens["ann"]))).code() is DENIED
    assert door.refusals() == {"role": 2}


async def test_strangers_are_refused_everywhere_but_at_health(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    stranger = door.client("em_guessed")
    for call in (collect(stranger, "x"), stranger.tokenize("x"), stranger.model(), stranger.cluster()):
        assert (await code_of(call)).code() is UNAUTHENTICATED
    assert (await code_of(door.client().model())).code() is UNAUTHENTICATED
    assert await stranger.health()
    assert door.refusals() == {"unknown": 4, "missing": 1}
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("refused")]
    assert len(lines) == 5
    assert lines[0].startswith("refused '/expertmesh.v1.Inference/Generate' from ipv4:127.0.0.1:")
    assert "reason unknown, token unknown: the token is not known" in lines[0]
    assert "em_guessed" not in caplog.text
    assert not door.world.routers[0].submits


async def test_an_unknown_method_tells_a_stranger_nothing(door: Door) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.world.server.grpc_port}") as channel:
        call = channel.unary_unary("/expertmesh.v1.Cluster/Nothing")
        assert (await code_of(call(b""))).code() is UNAUTHENTICATED
        admin = (("authorization", f"Bearer {door.tokens['root']}"),)
        assert (await code_of(call(b"", metadata=admin))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_strangers_message_is_not_even_read(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr("router_service.protocol.inference_pb2.GenerateRequest.FromString", parsed, raising=False)
    assert (await code_of(collect(door.client("x"), "y" * 100_000))).code() is UNAUTHENTICATED


async def test_streams_are_limited_by_token(door: Door) -> None:
    limited = door.client("lim")
    running = asyncio.create_task(collect(limited, "hello", max_tokens=4000))
    await until(lambda: len(door.world.routers[0].submits) == 1)
    error = await code_of(collect(limited, "hello"))
    assert error.code() is EXHAUSTED
    assert "max_concurrent_streams of token lim: 1 are open" in str(error.details())
    assert len(ids_of(await collect(door.client("ann"), "hello", max_tokens=2))) == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: not door.world.server.authenticator.open_streams("lim"))
    assert len(ids_of(await collect(limited, "hello", max_tokens=2))) == 2
    assert door.refusals() == {"streams": 1}


async def test_requests_are_limited_by_token_and_it_is_said_when_to_retry(door: Door) -> None:
    limited = door.client("lim")
    door.world.clock = lambda: 0.0  # the minute stands still while the calls are made
    for _ in range(4):
        await limited.model()
    error = await code_of(limited.model())
    assert error.code() is EXHAUSTED
    assert "requests_per_minute of token lim: 4 are used up" in str(error.details())
    assert dict(error.trailing_metadata())["retry-after"] == "15"
    await door.client("ann").model()
    assert door.refusals() == {"rate": 1}


async def test_a_requests_size_is_limited_by_token(door: Door) -> None:
    limited = door.client("lim")
    for call in (limited.tokenize("x" * 500), collect(limited, "x" * 500)):
        error = await code_of(call)
        assert error.code() is EXHAUSTED
        assert "max_request_bytes of token lim: the request has 5" in str(error.details())
    assert len(await door.client("ann").tokenize("x" * 500)) > 0
    assert door.refusals() == {"size": 2}
    assert not door.world.server.authenticator.open_streams("lim")


async def test_a_streamed_method_that_is_a_generator_is_limited_too(door: Door) -> None:
    async def numbers(_: object, __: object):  # type: ignore[no-untyped-def]
        yield 1
        yield 2

    authenticator, name = door.world.server.authenticator, "/expertmesh.v1.Inference/Numbers"
    assert needed_role(name) is Role.INFERENCE
    details = SimpleNamespace(method=name, invocation_metadata=(("authorization", f"Bearer {door.tokens['lim']}"),))

    async def found(_: object) -> object:
        return grpc.unary_stream_rpc_method_handler(numbers)

    handler = await AuthInterceptor(authenticator).intercept_service(found, details)  # type: ignore[arg-type]
    assert handler.request_deserializer(b"any") == b"any"
    seen = []
    context = SimpleNamespace(peer=lambda: "ipv4:127.0.0.1:1")
    async for number in handler.unary_stream(b"any", context):  # type: ignore[arg-type, attr-defined]
        assert authenticator.open_streams("lim") == 1
        seen.append(number)
    assert (seen, authenticator.open_streams("lim")) == ([1, 2], 0)


async def test_health_can_be_watched_without_a_token(door: Door) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.world.server.grpc_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


def test_a_refusal_is_an_error_of_requests_like_others() -> None:
    error = RefusedError(UNAUTHENTICATED, "no", "missing")
    assert (str(error), error.headers, error.http_status) == ("no", (), 401)

"""Clients that do not read their streams: what they hold is free after a while, and they are told if they ask."""

import asyncio
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from router_service.front.api import calls
from router_service.front.auth.tokens import Role, new_token
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.messages import Logprob, StreamOutput, Submit, TokenLogprobs
from tests.support.routed import Layer, part_of
from tests.unit.front.front_fakes import FakeRouter, until
from tests.unit.front.front_world import World

LAYERS = [Layer(layer, [3, 4], [0.5, 0.5], [0, 1]) for layer in range(8)]


def endless(submit: Submit) -> Iterator[StreamOutput]:
    """Large outputs, of which the sockets soon take no more."""
    best = TokenLogprobs(Logprob(9, -0.5), [Logprob(9, -0.5)] * 20)
    for step in itertools.count():
        routing = part_of(200 * step, [LAYERS] * 200) if submit.return_routing else None
        yield StreamOutput(submit.stream, [9] * 10, [best] * 10, routing=routing)


SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]


def asks(world: World, token: str = "") -> tuple[grpc.aio.Channel, grpc.aio.UnaryStreamCall]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}", SMALL_WINDOW)
    request = pb.GenerateRequest(prompt="hello", sampling=pb.Sampling(max_tokens=4000, logprobs=20, ignore_eos=True))
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return channel, InferenceStub(channel).Generate(request, metadata=metadata)


async def rest(call: grpc.aio.UnaryStreamCall) -> tuple[int, grpc.aio.AioRpcError]:
    """How many responses are still read, and how it ends."""
    count = 0
    try:
        while await call.read() is not grpc.aio.EOF:
            count += 1
    except grpc.aio.AioRpcError as error:
        return count, error
    raise AssertionError("it ends in no error")


async def serve(world: World, **options: object) -> FakeRouter:
    router = await world.router(script=endless)
    client = await world.front(slow_reader_seconds=0.1, max_buffered_tokens=1 << 30, **options)
    await client.wait_ready(10)
    return router


async def test_who_does_not_read_loses_its_stream_and_can_read_why(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "FAREWELL_SECONDS", 60.0)
    router = await serve(world)
    channel, call = asks(world)
    await call.read()
    await until(lambda: world.server.streams == 0)
    await until(lambda: not router.running)
    count, error = await rest(call)
    assert count > 0
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the client has read nothing for 0.1 s" in str(error.details())
    await channel.close()


async def test_who_never_reads_is_reset_and_frees_the_place_of_its_token(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calls, "FAREWELL_SECONDS", 0.1)
    token, line = new_token("ann", Role.INFERENCE)
    (tmp_path / "tokens").write_text(line)
    router = await serve(world, tokens_file=str(tmp_path / "tokens"))
    channel, call = asks(world, token)
    await until(lambda: world.server.authenticator.open_streams("ann") == 1)
    await until(lambda: world.server.authenticator.open_streams("ann") == 0)
    assert (world.server.streams, router.running) == (0, 0)
    # The stream is reset, so that the server keeps nothing of it; the connection goes on.
    assert (await rest(call))[1].code() is not grpc.StatusCode.OK
    model = InferenceStub(channel).GetModel(pb.GetModelRequest(), metadata=(("authorization", f"Bearer {token}"),))
    assert (await model).name == "tiny"
    await channel.close()


async def test_a_page_that_does_not_read_its_answer_loses_it(world: World) -> None:
    router = await serve(world, http_port=0)
    port = world.server.http_port
    narrow = socket.create_connection(("127.0.0.1", port))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    body = json.dumps({"prompt": "hello", "max_tokens": 1000})
    own = f"127.0.0.1:{port}"
    head = f"POST /api/generate HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await until(lambda: world.server.streams == 0)
    await until(lambda: not router.running)
    (family,) = [one for one in world.server.metrics.registry.collect() if one.name == "expertmesh_request_failures"]
    counts = {one.labels["code"]: one.value for one in family.samples if one.name.endswith("_total") and one.value}
    assert counts == {"RESOURCE_EXHAUSTED": 1}
    writer.transport.abort()

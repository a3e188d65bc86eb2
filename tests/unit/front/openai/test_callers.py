"""Who may call the OpenAI API: programs with a token where one is needed, never another site's page."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from router_service.client.client import Client
from router_service.front.auth.tokens import Role, new_token
from router_service.front.config import FrontConfig
from router_service.protocol import cluster_pb2
from router_service.protocol.cluster_pb2_grpc import ClusterStub
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, error_in

KEY = "sk-of-this-test"
BODY = {"prompt": "hello", "max_tokens": 1}
OPEN = ("/health", "/ping", "/version", "/metrics", "/openapi.json")
CLOSED = ("/v1/models", "/v1/models/tiny", "/tokenizer_info")


async def guarded(world: World, tmp_path: Path, *, key: str = "", **limits: object) -> str:
    """A Front that asks for tokens; the token of one that may generate."""
    token, line = new_token("ann", Role.INFERENCE)
    (tmp_path / "tokens").write_text(json.dumps(json.loads(line) | limits))
    await world.router()
    await world.front(http_port=0, tokens_file=str(tmp_path / "tokens"), api_key=key)
    await world.clients[0].wait_ready(10)
    return token


async def status_of(caller: Caller, path: str, **options: Any) -> int:
    async with caller.session.get(path, **options) as response:
        return int(response.status)


async def test_tokens(world: World, tmp_path: Path) -> None:
    token = await guarded(world, tmp_path)
    port = world.server.http_port
    async with Caller(port) as stranger, Caller(port, token) as ann, Caller(port, "em_wrong") as wrong:
        for caller in (stranger, wrong):
            assert [await status_of(caller, path) for path in CLOSED] == [401] * len(CLOSED)
            status, error = await caller.refused("/v1/completions", **BODY)
            assert (status, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
        assert [await status_of(stranger, path) for path in OPEN] == [200] * len(OPEN)
        assert [await status_of(ann, path) for path in CLOSED] == [200] * len(CLOSED)
        assert (await ann.post("/v1/completions", **BODY))["choices"]
        async with stranger.session.post("/v1/completions", json=BODY) as response:
            assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_limits_of_a_token(world: World, tmp_path: Path) -> None:
    world.clock = lambda: 0.0  # no minute passes
    token = await guarded(world, tmp_path, requests_per_minute=7, max_concurrent_streams=2, max_request_bytes=300)
    async with Caller(world.server.http_port, token) as ann:
        status, error = await ann.refused("/v1/completions", prompt="x" * 400)
        assert (status, "300 are allowed" in error["message"]) == (413, True)
        # Each prompt counts as a stream.
        status, error = await ann.refused("/v1/completions", prompt=["a", "b", "c"])
        assert (status, "max_concurrent_streams" in error["message"]) == (429, True)
        assert world.server.authenticator.open_streams("ann") == 0
        assert (await ann.post("/v1/completions", prompt=["a", "b"], max_tokens=1))["choices"]
        # Each prompt counts as a request: of seven one is left.
        assert (await ann.post("/v1/completions", **BODY))["choices"]
        async with ann.session.post("/v1/completions", json=BODY) as response:
            assert (response.status, int(response.headers["Retry-After"]) >= 1) == (429, True)


async def test_an_api_key_is_a_token_for_both_faces(world: World) -> None:
    await world.router()
    await world.front(http_port=0, api_key=KEY)
    await world.clients[0].wait_ready(10)
    async with Caller(world.server.http_port) as stranger, Caller(world.server.http_port, KEY) as owner:
        assert (await stranger.refused("/v1/completions", **BODY))[0] == 401
        assert (await owner.post("/v1/completions", **BODY))["choices"]
        # Without a tokens file nobody else could administer.
        assert await status_of(owner, "/api/model") == 200
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        asked = ClusterStub(channel).GetCluster
        assert await asked(cluster_pb2.GetClusterRequest(), metadata=(("authorization", f"Bearer {KEY}"),))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(cluster_pb2.GetClusterRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_beside_a_tokens_file_the_key_only_generates(world: World, tmp_path: Path) -> None:
    token = await guarded(world, tmp_path, key=KEY)
    for given in (token, KEY):
        async with Caller(world.server.http_port, given) as caller:
            assert (await caller.post("/v1/completions", **BODY))["choices"]
            async with caller.session.get("/live") as response:
                assert response.status == 403
    async with Client(f"127.0.0.1:{world.server.grpc_port}", token=KEY) as client:
        assert await client.tokenize("hello")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
async def test_a_page_of_another_site_may_do_nothing(caller: Caller, headers: dict[str, str], path: str) -> None:
    async with caller.session.post(path, json=BODY, headers=headers) as response:
        error = error_in(await response.json())
        assert (response.status, error["type"]) == (403, "permission_error")
        assert next(iter(headers.values())) not in error["message"]
        assert not [name for name in response.headers if name.startswith("Access-Control")]
    async with caller.session.options(path, headers=headers) as response:
        assert response.status == 403


async def test_a_name_that_is_rebound_to_this_machine_is_refused(caller: Caller) -> None:
    async with caller.session.post("/v1/completions", json=BODY, headers={"Host": "evil.example"}) as response:
        assert (response.status, "Host" in error_in(await response.json())["message"]) == (403, True)


async def test_our_own_page_may_call(caller: Caller) -> None:
    ours = {"Origin": caller.url, "Sec-Fetch-Site": "same-origin"}
    async with caller.session.post("/v1/completions", json=BODY, headers=ours) as response:
        assert response.status == 200


def test_a_key_counts_as_authentication_and_is_not_shown() -> None:
    config = FrontConfig(host="0.0.0.0", http_host="0.0.0.0", api_key=KEY)
    assert KEY not in repr(config)
    with pytest.raises(ValueError, match=r"front\.api_key must be printable") as refused:
        FrontConfig(api_key=f"{KEY} ")
    assert KEY not in str(refused.value)

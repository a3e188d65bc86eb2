"""Caller, priority and salt of a request, from its call to what the router receives."""

from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.client.client import Client
from router_service.front.api.scheduling import salt_of
from router_service.front.auth.tokens import Role, new_token
from router_service.front.config import FrontConfig
from tests.unit.front.calls import collect
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser


async def with_tokens(world: World, directory: Path, **options: object) -> list[Client]:
    """Clients of two tokens, ann and bob."""
    made = [new_token(name, Role.INFERENCE) for name in ("ann", "bob")]
    (directory / "tokens").write_text("\n".join(line for _, line in made))
    await world.router()
    await world.front(tokens_file=str(directory / "tokens"), **options)
    await world.clients[0].wait_ready(10)
    world.clients += [Client(f"127.0.0.1:{world.server.grpc_port}", token=token) for token, _ in made]
    return world.clients[1:]


async def test_priority_and_salt_reach_the_router(world: World) -> None:
    router, client = await world.serve()
    await collect(client, "hello", max_tokens=1)
    await collect(client, "hello", max_tokens=1, priority=-100, cache_salt="s" * 256)
    plain, set_ = router.submits
    assert (plain.priority, plain.cache_salt) == (0, b"")
    assert (set_.priority, set_.cache_salt) == (-100, salt_of("", "s" * 256))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priority": 101}, "priority: must be -100 to 100, got 101"),
        ({"priority": -(1 << 31)}, "priority: must be -100 to 100, got -2147483648"),
        ({"cache_salt": "s" * 257}, "cache_salt: at most 256 characters, has 257"),
    ],
)
async def test_what_is_out_of_bounds_is_refused(world: World, fields: dict[str, object], message: str) -> None:
    router, client = await world.serve()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello", max_tokens=1, **fields)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, message)
    assert not router.submits


async def test_with_tokens_the_caller_is_the_token_and_shares_no_prefixes(world: World, tmp_path: Path) -> None:
    ann, bob = await with_tokens(world, tmp_path)
    for client in (ann, ann, bob):
        await collect(client, "hello", max_tokens=1)
    submits = world.routers[0].submits
    assert [submit.caller for submit in submits] == ["ann", "ann", "bob"]
    assert submits[0].cache_salt == submits[1].cache_salt == salt_of("ann", "")
    assert submits[2].cache_salt == salt_of("bob", "")


async def test_the_scope_server_shares_prefixes_between_tokens(world: World, tmp_path: Path) -> None:
    for client in await with_tokens(world, tmp_path, cache_scope="server"):
        await collect(client, "hello", max_tokens=1)
    assert [submit.cache_salt for submit in world.routers[0].submits] == [b"", b""]


async def test_without_tokens_the_caller_is_the_connection(world: World) -> None:
    router = await world.router()
    await world.front()
    await world.clients[0].wait_ready(10)
    target = f"127.0.0.1:{world.server.grpc_port}"
    apart = [("grpc.use_local_subchannel_pool", 1)]  # else one process has one connection
    for _ in range(2):
        async with grpc.aio.insecure_channel(target, options=apart) as channel:
            call = channel.unary_stream("/expertmesh.v1.Inference/Generate")
            for _ in range(2):
                async for _ in call(b"\x1a\x03\x0a\x01\x05\x2a\x02\x08\x01"):  # tokens [5], max_tokens 1
                    pass
    callers = [submit.caller for submit in router.submits]
    assert callers[0] == callers[1] != callers[2] == callers[3]
    assert all(caller.startswith("ipv4:127.0.0.1:") for caller in callers)
    assert {submit.cache_salt for submit in router.submits} == {b""}


async def test_the_pages_caller_is_its_token(world: World, tmp_path: Path) -> None:
    token, line = new_token("root", Role.ADMIN)
    (tmp_path / "tokens").write_text(line)
    router = await world.router()
    await world.front(tokens_file=str(tmp_path / "tokens"), http_port=0)
    await world.clients[0].wait_ready(10)
    question = {"prompt": "hello", "max_tokens": 1}
    async with Browser(world.server.http_port, token) as browser, browser.post("/api/generate", question) as response:
        await response.read()
    assert [submit.caller for submit in router.submits] == ["root"]


@given(st.tuples(st.text(max_size=5), st.text(max_size=5)), st.tuples(st.text(max_size=5), st.text(max_size=5)))
def test_different_pairs_have_different_salts(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (salt_of(*one) == salt_of(*other)) == (one == other)


def test_an_unset_scope_is_decided_by_the_tokens() -> None:
    assert not FrontConfig().cache_by_caller
    assert FrontConfig(tokens_file="tokens").cache_by_caller
    assert FrontConfig(cache_scope="caller").cache_by_caller
    assert not FrontConfig(tokens_file="tokens", cache_scope="server").cache_by_caller
    with pytest.raises(ValueError, match=r"front\.cache_scope is 'all', it must be one of auto, caller, server"):
        FrontConfig(cache_scope="all")  # type: ignore[arg-type]

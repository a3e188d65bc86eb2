"""Tokens for the live page: who may see and do what, limits, what is logged and counted."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from router_service.front.auth.tokens import Role, new_token
from router_service.front.http.assets import load_assets
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser, browse
from tests.unit.front.page.test_front_http_live import snapshots

PROMPT = {"prompt": "hello", "max_tokens": 2}
LIMITS: dict[str, dict[str, object]] = {
    "streams": {"max_concurrent_streams": 1},
    "rate": {"requests_per_minute": 1},
    "size": {"max_request_bytes": 100},
    "old": {"expires": (datetime.now(UTC) - timedelta(days=1)).isoformat()},
}


class House:
    """A page that asks for tokens, and a browser for each of them."""

    def __init__(self, world: World, tokens: dict[str, str]) -> None:
        self.world = world
        self.tokens = tokens

    def browser(self, name: str = "") -> Browser:
        return Browser(self.world.server.http_port, self.tokens.get(name, name))

    def refusals(self) -> dict[str, float]:
        families = {family.name: family for family in self.world.server._metrics.registry.collect()}
        samples = families["expertmesh_requests_refused"].samples
        return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}


@pytest.fixture
async def house(world: World, tmp_path: Path) -> House:
    tokens, lines = {}, []
    for name in ("ann", "root", *LIMITS):
        tokens[name], line = new_token(name, Role.ADMIN if name == "root" else Role.INFERENCE)
        lines.append(json.dumps(json.loads(line) | LIMITS.get(name, {})))
    (tmp_path / "tokens").write_text("\n".join(lines))
    await world.router(step_s=0.02)
    await world.front(tokens_file=str(tmp_path / "tokens"), http_port=0)
    await world.clients[0].wait_ready(10)
    return House(world, tokens)


async def answer(response: aiohttp.ClientResponse) -> tuple[int, str, str]:
    body = await response.json()
    assert set(body) == {"error", "code"}
    return response.status, body["code"], body["error"]


async def test_what_holds_no_data_is_open(house: House) -> None:
    async with house.browser() as browser:
        for path in (*load_assets(), "/healthz"):
            async with browser.get(path) as response:
                assert response.status == 200, path


@pytest.mark.parametrize(
    ("token", "said", "reason"),
    [
        ("", "a token is required", "missing"),
        ("wrong", "the token is not known", "unknown"),
        ("old", "expired", "expired"),
    ],
)
async def test_strangers_get_nothing(
    house: House, token: str, said: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.browser(token) as browser:
        for path in ("/live", "/api/model"):
            async with browser.get(path) as response:
                status, code, error = await answer(response)
                assert (status, code, response.headers["WWW-Authenticate"]) == (401, "UNAUTHENTICATED", "Bearer")
                assert said in error
        assert (await browser.refused("/api/generate", PROMPT))[0] == 401
        assert (await browser.refused("/api/domains", {"domains": []}))[0] == 401
    assert house.refusals()[reason] == 4
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("refused ")]
    assert len(lines) == 4
    assert all(f"reason {reason}" in line and "127.0.0.1" in line for line in lines)
    assert not house.world.routers[0].submits
    assert house.tokens["old"] not in caplog.text


async def test_what_nobody_has_named_is_closed(house: House) -> None:
    """A route that is added later is for admins until it says otherwise."""
    async with house.browser() as stranger, house.browser("ann") as ann, house.browser("root") as root:
        for path in ("/nothing", "/live/", "/healthz/", "/main.js/"):
            for browser, status in ((stranger, 401), (ann, 403), (root, 404)):
                async with browser.get(path) as response:
                    assert response.status == status, path


async def test_inference_generates_and_an_admin_sees_the_cluster(house: House) -> None:
    async with house.browser("ann") as browser:
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"
        async with browser.get("/api/model") as response:
            assert (await response.json())["name"] == "tiny"
        async with browser.get("/live") as response:
            status, code, error = await answer(response)
        assert (status, code) == (403, "PERMISSION_DENIED")
        assert error == "token ann has the role inference, this needs the role admin"
    assert house.refusals() == {"role": 1}
    async with house.browser("root") as browser:
        await snapshots(browser, lambda data: data["draining"] is False)
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"


async def test_the_limits_of_a_token_hold_here_too(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async with house.browser("rate") as browser:
        async with browser.get("/api/model") as response:
            assert response.status == 200
        async with browser.get("/api/model") as response:
            assert (await answer(response))[:2] == (429, "RESOURCE_EXHAUSTED")
            assert 1 <= int(response.headers["Retry-After"]) <= 60
    async with house.browser("size") as browser:
        status, error = await browser.refused("/api/generate", PROMPT | {"prompt": "x" * 200})
        assert (status, "max_request_bytes of token size" in error) == (429, True)
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"
    async with house.browser("streams") as browser:
        router = house.world.routers[0]
        router.stall_after_steps = router.steps  # it must not end before the other is refused
        running = asyncio.create_task(browser.generate(prompt="hello", max_tokens=60))
        await until(lambda: house.world.server.streams == 1)
        status, error = await browser.refused("/api/generate", PROMPT)
        assert (status, "max_concurrent_streams of token streams" in error) == (429, True)
        router.stall_after_steps = None
        await running
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"
    assert house.refusals() == {"rate": 1, "size": 1, "streams": 1}
    for reason in ("rate", "size", "streams"):
        assert f"reason {reason}, token {reason}: " in caplog.text


async def test_another_site_is_refused_whatever_its_token(house: House) -> None:
    async with house.browser("root") as browser:
        async with browser.post("/api/generate", PROMPT, Origin="http://elsewhere.example") as response:
            assert response.status == 403
        async with browser.get("/api/model", headers={"Host": "elsewhere.example"}) as response:
            assert response.status == 403
    assert house.refusals() == {}


async def test_without_a_tokens_file_nobody_is_asked(world: World) -> None:
    _, browser = await browse(world)
    async with browser:
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"

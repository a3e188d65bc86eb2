"""Tokens for the live page: who may see and do what, limits, what is logged and counted."""

import asyncio

import pytest

from router_service.front.http.assets import load_assets
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.http.house import PROMPT, House, answer
from tests.unit.front.http_world import browse, snapshots


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

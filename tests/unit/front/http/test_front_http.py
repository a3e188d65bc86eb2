"""The live page's server: its files, headers, health, errors, and whom it lets act."""

import asyncio
import re
import socket
from urllib.parse import urljoin

import aiohttp
import pytest

from router_service.front.config import FrontConfig
from router_service.front.http.assets import load_assets
from router_service.front.server import FrontServer
from router_service.text.text_model import TextModel
from tests.unit.front.front_fakes import CREDENTIALS, WAIT_S, card, until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser, browse

MODULE = re.compile(r'from "(\.{1,2}/[a-z/]+\.js)"')
REFERENCE = re.compile(r'(?:href|src)="([a-z.]+)"')


async def test_the_page_and_its_files(world: World) -> None:
    _, browser = await browse(world)
    async with browser:
        for path, (content, kind) in load_assets().items():
            async with browser.get(path) as response:
                assert (response.status, response.content_type, response.charset) == (200, kind, "utf-8")
                assert await response.read() == content
                assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_files_name_only_each_other() -> None:
    assets = {path: content.decode() for path, (content, _) in load_assets().items()}
    named = {urljoin(path, name) for path, text in assets.items() for name in MODULE.findall(text)}
    named |= {f"/{name}" for name in REFERENCE.findall(assets["/"])}
    assert named == set(assets) - {"/"}
    for path, text in assets.items():
        assert "innerHTML" not in text, path
        outside = [url for url in re.findall(r"https?://[^\s\"']+", text) if url != "http://www.w3.org/2000/svg"]
        assert outside == [], path


async def test_health_is_the_links_and_the_drain(world: World) -> None:
    client = await world.front(http_port=0)
    async with Browser(world.server.http_port) as browser:
        async with browser.get("/healthz") as response:
            assert (response.status, await response.json()) == (503, {"status": "no router is linked", "routers": 0})
        await world.router()
        await client.wait_ready(10)
        async with browser.get("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "serving", "routers": 1})
        world.server.health.drain()
        async with browser.get("/healthz") as response:
            assert (response.status, (await response.json())["status"]) == (503, "draining")


async def test_errors_are_one_json_object(world: World) -> None:
    _, browser = await browse(world)
    async with browser:
        async with browser.get("/nothing") as response:
            assert (response.status, (await response.json())["code"]) == (404, "NOT_FOUND")
        async with browser.get("/api/generate") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert "only POST" in (await response.json())["error"]
        status, error = await browser.refused("/api/generate", {"prompt": "x" * (1 << 21)})
        assert (status, "1048576" in error) == (413, True)
        async with browser.get("/../../etc/passwd") as response:
            assert response.status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "text/plain"},
    ],
)
async def test_only_the_page_itself_may_act(world: World, headers: dict[str, str]) -> None:
    router, browser = await browse(world)
    async with browser:
        async with browser.post("/api/generate", {"prompt": "hi"}, **headers) as response:
            answer = await response.json()
            assert (response.status, answer["code"]) == (403, "PERMISSION_DENIED")
            assert ("Content-Type" if "Content-Type" in headers else "Origin") in answer["error"]
            assert next(iter(headers.values())) not in answer["error"]  # nothing of a stranger's is sent back
        async with browser.session.post("/api/generate", json={"prompt": "hi"}) as response:
            assert response.status == 403
    assert router.submits == []


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("localhost:99", 200), ("[::1]:8", 200)])
async def test_a_loopback_server_answers_to_this_machine_only(world: World, host: str, status: int) -> None:
    _, browser = await browse(world)
    async with browser, browser.get("/healthz", headers={"Host": host}) as response:
        assert response.status == status


async def test_connections_end_when_their_browser_has_vanished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 45 s: later than a page that does not read, which looks the same."""
    given: set[tuple[int, ...]] = set()
    real = socket.socket.setsockopt

    def note(own: socket.socket, *option: int) -> None:
        given.add(option)
        real(own, *option)

    monkeypatch.setattr(socket.socket, "setsockopt", note)
    _, browser = await browse(world)
    async with browser, browser.get("/healthz") as response:
        assert response.status == 200
    tcp = socket.IPPROTO_TCP
    assert {(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (tcp, socket.TCP_USER_TIMEOUT, 45_000)} <= given
    assert {(tcp, socket.TCP_KEEPIDLE, 10), (tcp, socket.TCP_KEEPINTVL, 5)} <= given


async def test_a_fault_of_ours_is_an_error_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    _, browser = await browse(world)

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    world.server.inference.model = broken  # type: ignore[method-assign,assignment]
    async with browser, browser.get("/api/model") as response:
        assert (response.status, (await response.json())["code"]) == (500, "INTERNAL")
    assert "a bug" in caplog.text


async def test_a_taken_port_is_said(text: TextModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = FrontConfig(metrics_port=None, http_port=port)

        async def none() -> list[object]:
            return []

        server = FrontServer(
            config=config,
            text=text,
            card=card(),
            endpoints=none,  # type: ignore[arg-type]
            credentials=CREDENTIALS,
            node="node",
        )
        with pytest.raises(OSError, match=f"cannot listen on http://127.0.0.1:{port}"):
            await server.start()


async def test_no_page_where_none_is_wanted(world: World) -> None:
    await world.front(http_port=None)
    assert world.server.http_port == 0


async def test_stopping_ends_open_pages(world: World) -> None:
    _, browser = await browse(world)
    async with browser, browser.get("/live") as response:
        await response.content.readline()
        hub = world.server.live.hub  # type: ignore[union-attr]
        assert hub.watchers == 1
        await asyncio.wait_for(world.server.stop(), WAIT_S)
        async with asyncio.timeout(WAIT_S):
            await response.content.read()
        await until(lambda: hub.watchers == 0)
    with pytest.raises(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(browser.url):
            pass


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"prompt": "a", "max_tokens": 1, "prompt": "b"}', "prompt"),
        ('{"messages": [{"role": "user", "content": "a", "role": "system"}]}', "role"),
    ],
)
async def test_a_key_that_stands_twice_is_refused(world: World, body: str, key: str) -> None:
    """Readers differ in which one they take: what a proxy has checked might not be what is generated."""
    router, browser = await browse(world)
    ours = {"Origin": browser.url, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
    async with browser, browser.session.post("/api/generate", data=body, headers=ours) as response:
        answer = await response.json()
        assert (response.status, answer["code"]) == (400, "INVALID_ARGUMENT")
        assert answer["error"].startswith(f"body: {key} stands there twice")
    assert router.submits == []

"""A browser's requests to the live page of a world's Front."""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp

from tests.unit.front.front_fakes import WAIT_S, FakeRouter
from tests.unit.front.front_world import World

Event = tuple[str, Any]


class Browser:
    """Speaks to one Front's page as a browser on that page does."""

    def __init__(self, port: int, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.session = aiohttp.ClientSession(self.url, headers=headers, connector=aiohttp.TCPConnector(ssl=tls or True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.session.close()

    def get(self, path: str, **options: Any) -> Any:
        return self.session.get(path, **options)

    def post(self, path: str, body: object, **headers: str) -> Any:
        ours = {"Origin": self.url, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
        # A stream: of a large body of plain bytes aiohttp warns.
        return self.session.post(path, data=io.BytesIO(json.dumps(body).encode()), headers=ours | headers)

    async def refused(self, path: str, body: object) -> tuple[int, str]:
        """The status and the error of a POST."""
        async with self.post(path, body) as response:
            answer = await response.json()
            assert set(answer) == {"error", "code"}
            return response.status, answer["error"]

    async def generate(self, **body: object) -> list[Event]:
        async with self.post("/api/generate", body) as response:
            assert response.status == 200, await response.text()
            return [event async for event in events(response)]


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Each event of a stream as (kind, data)."""
    kind = ""
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


async def browse(world: World, **options: object) -> tuple[FakeRouter, Browser]:
    """A Front with a router and its page, and a browser on it."""
    router = await world.router(**options)
    client = await world.front(http_port=0)
    await client.wait_ready(10)
    return router, Browser(world.server.http_port)


async def snapshots(browser: Browser, wanted: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model, and the first snapshot that is `wanted`."""
    async with asyncio.timeout(WAIT_S), browser.get("/live") as response:
        assert response.content_type == "text/event-stream"
        model: dict[str, Any] = {}
        async for kind, data in events(response):
            if kind == "model":
                model = data
            elif wanted(data):
                return model, data
    raise AssertionError("the stream ended")

"""A program that speaks the OpenAI API to a world's Front, without a library."""

import json
from typing import Any, Self

import aiohttp

from tests.unit.front.front_fakes import FakeRouter
from tests.unit.front.front_world import World


class Caller:
    """Sends requests to one Front."""

    def __init__(self, port: int, token: str = "") -> None:
        self.url = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.session = aiohttp.ClientSession(self.url, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.session.close()

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def post(self, path: str, **body: object) -> Any:
        async with self.session.post(path, json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def chat(self, text: str = "hello", **body: object) -> Any:
        return await self.post("/v1/chat/completions", messages=[{"role": "user", "content": text}], **body)

    async def complete(self, prompt: object = "hello", **body: object) -> Any:
        return await self.post("/v1/completions", prompt=prompt, **body)

    async def stream(self, path: str, **body: object) -> list[Any]:
        """Each event's data; "[DONE]" as it is."""
        async with self.session.post(path, json={"stream": True} | body) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            return events_in(await response.read())

    async def refused(self, path: str, **body: object) -> tuple[int, dict[str, Any]]:
        """The status and the error of a POST."""
        async with self.session.post(path, json=body) as response:
            return response.status, error_in(await response.json())


def events_in(raw: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def error_in(answer: Any) -> dict[str, Any]:
    assert set(answer) == {"error"}
    error: dict[str, Any] = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def call(world: World, **options: object) -> tuple[FakeRouter, Caller]:
    """A Front with a router, and a program that calls it."""
    router = await world.router(**options)
    client = await world.front(http_port=0)
    await client.wait_ready(10)
    return router, Caller(world.server.http_port)

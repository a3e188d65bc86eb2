"""A live page that asks for tokens."""

from datetime import UTC, datetime, timedelta

import aiohttp

from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser

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
        families = {family.name: family for family in self.world.server.metrics.registry.collect()}
        samples = families["expertmesh_requests_refused"].samples
        return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}


async def answer(response: aiohttp.ClientResponse) -> tuple[int, str, str]:
    body = await response.json()
    assert set(body) == {"error", "code"}
    return response.status, body["code"], body["error"]

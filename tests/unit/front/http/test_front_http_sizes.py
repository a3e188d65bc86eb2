"""How large a request to the live page may be, however it is sent."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router_service.front.auth.tokens import Role, new_token
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.http.house import PROMPT, House, answer
from tests.unit.front.http_world import Browser

LONG = PROMPT | {"prompt": "x" * 200}


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


@pytest.mark.parametrize("way", ["plain", "gzip", "deflate", "chunked"])
async def test_a_body_counts_as_long_as_it_is_unpacked(
    house: House, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.browser("size") as browser:
        status, code, error = await answer_to(browser, json.dumps(LONG).encode(), way)
        assert (status, code) == (429, "RESOURCE_EXHAUSTED")
        assert error.startswith("max_request_bytes of token size: the request has 2")
        short, _, _ = await answer_to(browser, json.dumps(PROMPT).encode(), way)
        assert short == 200
    assert house.refusals() == {"size": 1}
    assert [record.getMessage() for record in caplog.records if "reason size, token size" in record.getMessage()]
    assert len(house.world.routers[0].submits) == 1


async def answer_to(browser: Browser, body: bytes, way: str) -> tuple[int, str, str]:
    """Status, code and error of a generation whose body is sent in a certain form."""
    forms: dict[str, tuple[Any, dict[str, str]]] = {
        "plain": (body, {}),
        "gzip": (gzip.compress(body), {"Content-Encoding": "gzip"}),
        "deflate": (zlib.compress(body), {"Content-Encoding": "deflate"}),
        "chunked": (in_pieces(body), {}),
    }
    data, more = forms[way]
    headers = {"Origin": browser.url, "Content-Type": "application/json"} | more
    async with browser.session.post("/api/generate", data=data, headers=headers) as response:
        if response.status == 200:
            await response.read()
            return 200, "", ""
        return await answer(response)


@pytest.mark.parametrize("tokens", [False, True])
async def test_the_servers_own_size_limit_holds_for_everyone(world: World, tmp_path: Path, tokens: bool) -> None:
    token, line = new_token("root", Role.ADMIN)
    (tmp_path / "tokens").write_text(line)
    await world.router()
    await world.front(http_port=0, max_request_bytes=100, tokens_file=str(tmp_path / "tokens") if tokens else "")
    await until(lambda: world.server.linked_routers == 1)
    async with Browser(world.server.http_port, token if tokens else "") as browser:
        status, error = await browser.refused("/api/generate", LONG)
        assert (status, error.startswith("front.max_request_bytes is 100: ")) == (429, True)
        assert [kind for kind, _ in await browser.generate(**PROMPT)][-1] == "end"
    assert House(world, {}).refusals() == {"size": 1}

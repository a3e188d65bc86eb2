"""The live page of a server that asks for tokens and speaks TLS."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import expect

from router_service.front.auth.tokens import Role, new_token
from tests.e2e.server import Server, serving
from tests.e2e.shared_ray import SharedRay
from tests.page.browser import NARROW, WAIT_MS, Watched, generate, opened, url_of
from tests.support.certificates import Certificate

# The first one may have to install Chromium.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]

# What Chromium itself says of an answer that the page expects, and of the stream that a reload ends.
EXPECTED = ("status of 401", "status of 403", "/live: net::ERR_ABORTED")


@dataclass
class Guarded:
    server: Server
    infer: str
    admin: str


@pytest.fixture(scope="module")
def guarded(shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    cert, key = Certificate.authority().sign("localhost").write(folder, "server")
    (infer, first), (admin, second) = new_token("ann", Role.INFERENCE), new_token("root", Role.ADMIN)
    (folder / "tokens").write_text(f"{first}\n{second}\n")
    flags = ("--tokens-file", str(folder / "tokens"), "--tls-cert", str(cert), "--tls-key", str(key))
    with serving(*shared_ray.joined_as("guarded"), "--shards", "1", *flags, log=folder / "log") as server:
        yield Guarded(server, infer, admin)


async def give(watched: Watched, token: str) -> None:
    await watched.page.fill("#token-input", token)
    await watched.page.keyboard.press("Enter")


def unexpected(watched: Watched) -> list[str]:
    return [fault for fault in watched.faults if not any(word in fault for word in EXPECTED)]


async def test_the_page_asks_for_a_token_and_works_with_it(guarded: Guarded) -> None:
    url = url_of(guarded.server)
    assert url.startswith("https://")
    async with opened(url, ignore_https_errors=True) as watched:
        page = watched.page
        dialog = page.locator("#token-dialog")
        await expect(dialog).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator("#token-problem")).to_be_empty()
        await expect(page.locator("#token-input")).to_be_focused()
        await give(watched, "em_wrong")
        await expect(page.locator("#token-problem")).to_contain_text("the token is not known", timeout=WAIT_MS)
        await give(watched, "caf\u00e9")
        await expect(page.locator("#token-problem")).to_contain_text("printable ASCII")
        await give(watched, guarded.admin)
        await expect(dialog).to_be_hidden()
        await expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=WAIT_MS)
        await expect(page.locator("#shards .shard")).to_have_count(1, timeout=WAIT_MS)
        await generate(watched, 12, seed=5)
        assert await page.locator("#tokens .token:not(.given)").count() >= 12
        # Of this tab: a reload keeps it.
        await page.reload()
        await expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=WAIT_MS)
        await expect(dialog).to_be_hidden()
        kept = await page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert guarded.admin in kept[0]
        assert guarded.admin not in str(kept[1:])
        assert unexpected(watched) == []
    assert guarded.admin not in guarded.server.log.read_text()


async def test_a_token_for_inference_generates_and_is_told_what_it_lacks(guarded: Guarded) -> None:
    async with opened(url_of(guarded.server), width=NARROW, ignore_https_errors=True) as watched:
        page = watched.page
        await expect(page.locator("#token-dialog")).to_be_visible(timeout=WAIT_MS)
        assert await watched.overflow() <= 0
        assert not await overlap(watched, "#connection", ".topbar h1")
        # Closed without a token: the page says so, and the button asks again.
        await page.keyboard.press("Escape")
        await expect(page.locator("#connection")).to_have_attribute("data-state", "locked")
        await page.click("#token")
        await give(watched, guarded.infer)
        await expect(page.locator("#connection")).to_have_attribute("data-state", "partial", timeout=WAIT_MS)
        await expect(page.locator("#banner")).to_contain_text("tokens with the role admin")
        await expect(page.locator("#model-name")).not_to_be_empty()
        await generate(watched, 12, seed=5)
        # Another token later.
        await page.click("#token")
        await give(watched, guarded.admin)
        await expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=WAIT_MS)
        assert unexpected(watched) == []


async def overlap(watched: Watched, one: str, other: str) -> bool:
    a, b = [await watched.page.locator(selector).bounding_box() for selector in (one, other)]
    assert a is not None
    assert b is not None
    beside = a["x"] >= b["x"] + b["width"] or b["x"] >= a["x"] + a["width"]
    below = a["y"] >= b["y"] + b["height"] or b["y"] >= a["y"] + a["height"]
    return not (beside or below)

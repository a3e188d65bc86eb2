"""What the page is told of the model's chat template."""

from dataclasses import replace

import pytest

from router_service.front.page.thinking import knows_thinking
from router_service.text.chat import ChatTemplate
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser

SWITCHED = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


@pytest.mark.parametrize(
    ("source", "knows"), [(SWITCHED, True), ("{{ messages }}", False), ("{{ enable_thinking_more }}", False)]
)
def test_a_template_knows_the_switch_or_not(source: str, knows: bool) -> None:
    assert knows_thinking(ChatTemplate(source, {})) is knows


@pytest.mark.parametrize(("source", "said"), [(SWITCHED, (True, True)), ("x", (True, False)), (None, (False, False))])
async def test_the_page_is_told(world: World, source: str | None, said: tuple[bool, bool]) -> None:
    await world.router()
    text = replace(world.text, chat=None if source is None else ChatTemplate(source, {}))
    client = await world.front(text=text, http_port=0)
    await client.wait_ready(10)
    async with Browser(world.server.http_port) as browser, browser.get("/api/model") as response:
        model = await response.json()
    assert (model["has_chat_template"], model["thinking"]) == said

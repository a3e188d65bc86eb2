"""The chat of the live page in headless Chromium, with a Front and a router whose answers are written here: no Ray."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from playwright.async_api import Locator, expect

from router_service.front.parsing.answer_parsers import AnswerParsers
from router_service.text.chat import ChatTemplate
from router_service.text.text_model import TextModel, load_text_model
from tests.page.browser import NARROW, WIDE, Watched, opened
from tests.unit.front.front_fakes import FakeRouter, until, write_checkpoint
from tests.unit.front.front_world import World
from tests.unit.front.saying import saying

# The first one may have to install Chromium.
pytestmark = pytest.mark.timeout(600)

TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | length }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}calls {{ call.function.name }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
)
LOOK = {"type": "function", "function": {"name": "look", "description": "Look there.", "parameters": {}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'


@dataclass
class Actor:
    """A router that gives these answers, see `saying`."""

    world: World
    answers: list[str]

    async def router(self) -> FakeRouter:
        """Serve; its answers are read as Qwen3's."""
        self.world.parsers = AnswerParsers("qwen3", "hermes")
        router = await self.world.router(script=saying(self.world.text.tokenizer, self.answers))
        client = await self.world.front(http_port=0)
        await client.wait_ready(10)
        return router

    def url(self) -> str:
        return f"http://127.0.0.1:{self.world.server.http_port}/"

    async def prompt_of(self, *messages: dict[str, object], **kwargs: object) -> list[int]:
        chat = self.world.clients[0].generate(messages=messages, max_tokens=1, **kwargs)  # type: ignore[arg-type]
        self.answers.append("x")
        before = len(self.world.routers[0].submits)
        async for _ in chat:
            pass
        return self.world.routers[0].submits[before].prompt


@pytest.fixture
def text(tmp_path: Path) -> TextModel:
    return replace(load_text_model(write_checkpoint(tmp_path)), chat=ChatTemplate(TEMPLATE, {}))


@pytest.fixture
async def world(text: TextModel) -> AsyncIterator[World]:
    world = World(text)
    yield world
    await world.close()


async def begin(watched: Watched) -> None:
    """Choose the chat."""
    await watched.page.get_by_label("Chat", exact=True).check()
    await expect(watched.page.locator("#start")).to_have_text("Send")


async def send(watched: Watched, text: str) -> None:
    await watched.page.get_by_label("Message").fill(text)
    await watched.page.keyboard.press("Enter")


async def answered(watched: Watched) -> Locator:
    """The model's latest turn, once it is over."""
    await expect(watched.page.locator("#generate-status")).to_contain_text("Ended")
    await expect(watched.page.locator("#start")).to_be_enabled()
    return watched.page.locator(".turn.assistant").last


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


async def test_turns_follow_each_other(world: World) -> None:
    actor = Actor(world, ["<think>Let me see.</think>Yes.", "No."])
    router = await actor.router()
    async with opened(actor.url()) as watched:
        await begin(watched)
        await send(watched, "is it a fox?")
        turn = await answered(watched)
        await expect(turn.locator("> .said")).to_have_text("Yes.")
        reasoning = turn.locator("details")
        assert await reasoning.get_attribute("open") is None
        await expect(reasoning.locator(".said")).to_be_hidden()
        await reasoning.locator("summary").click()
        await expect(reasoning.locator(".said")).to_have_text("Let me see.")
        await send(watched, "or a dog?")
        await expect(watched.page.locator(".turn.user .said")).to_have_text(["is it a fox?", "or a dog?"])
        await expect((await answered(watched)).locator("> .said")).to_have_text("No.")
        await expect(watched.page.locator(".turn.assistant").last.locator("details")).to_be_hidden()
        assert watched.faults == []
    assert router.submits[0].prompt == await actor.prompt_of(user("is it a fox?"))
    history = [user("is it a fox?"), {"role": "assistant", "content": "Yes."}, user("or a dog?")]
    assert router.submits[1].prompt == await actor.prompt_of(*history)


async def test_every_token_of_an_answer_has_its_picture(world: World) -> None:
    """Those of the reasoning and of markers too: they are in the order of the routing."""
    said = "<think>Hm.</think>Yes."
    actor = Actor(world, [said])
    await actor.router()
    async with opened(actor.url()) as watched:
        await begin(watched)
        await send(watched, "hello")
        await answered(watched)
        tokens = watched.page.locator("#tokens .token:not(.given)")
        assert "".join(await tokens.all_text_contents()) == said
        await tokens.nth(1).click()
        await expect(watched.page.locator("#routing .layer .chosen li[data-shard]")).to_have_count(2)
        await tokens.last.click()
        await expect(watched.page.locator("#routing")).to_contain_text("Not routed")
        assert watched.faults == []


async def test_reasoning_is_folded_while_it_comes_and_stays_open_if_opened(world: World) -> None:
    actor = Actor(world, ["<think>Let me see it.</think>Yes."])
    router = await actor.router()
    router.stall_after_steps = len(world.text.tokenizer.encode("<think>Let me", False))
    async with opened(actor.url()) as watched:
        await begin(watched)
        await send(watched, "hello")
        details = watched.page.locator(".turn.assistant details")
        await expect(details.locator("summary")).to_have_text("Reasoning \u2026")
        await expect(details.locator(".said")).to_be_hidden()
        await details.locator("summary").click()
        await expect(details.locator(".said")).to_contain_text("Let")
        router.stall_after_steps = None
        turn = await answered(watched)
        await expect(details.locator("summary")).to_have_text("Reasoning")
        await expect(details.locator(".said")).to_be_visible()
        await expect(turn.locator("> .said")).to_have_text("Yes.")


async def test_tools_are_called_and_their_results_sent(world: World) -> None:
    actor = Actor(world, [CALL, "It is a fox."])
    router = await actor.router()
    async with opened(actor.url()) as watched:
        page = watched.page
        await begin(watched)
        await page.locator(".chat-settings summary").click()
        tools = page.get_by_label("Tools, a JSON list")
        for wrong in ("[", '[{"name": "look"}]'):
            await tools.fill(wrong)
            await send(watched, "hello")
            await expect(page.locator("#generate-status")).to_contain_text("Tools: ")
        await tools.fill(json.dumps([LOOK]))
        await send(watched, "hello")
        call = (await answered(watched)).locator(".call")
        await expect(call.locator("code")).to_have_text("look")
        assert json.loads(await call.locator("pre").inner_text()) == {"at": 1}
        await page.get_by_label("What look returned").fill("a <b>fox</b>")
        await page.keyboard.press("Enter")
        await expect(page.locator(".turn.tool .said")).to_have_text("a <b>fox</b>")
        await expect((await answered(watched)).locator("> .said")).to_have_text("It is a fox.")
        await expect(page.locator(".result")).to_have_count(0)
        assert watched.faults == []
    function = {"name": "look", "arguments": '{"at": 1}'}
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": function}]}
    result = {"role": "tool", "tool_call_id": "a", "content": "a <b>fox</b>"}
    assert [submit.prompt for submit in router.submits] == [
        await actor.prompt_of(user("hello"), tools=[LOOK]),
        await actor.prompt_of(user("hello"), called, result, tools=[LOOK]),
    ]


async def test_escape_stops_and_what_came_stays(world: World) -> None:
    actor = Actor(world, ["It is a fox.", "Yes."])
    router = await actor.router()
    router.stall_after_steps = len(world.text.tokenizer.encode("It is", False))
    async with opened(actor.url()) as watched:
        await begin(watched)
        await send(watched, "hello")
        turn = watched.page.locator(".turn.assistant")
        await expect(turn.locator("> .said")).to_have_text("It is")
        await watched.page.keyboard.press("Escape")
        await expect(turn.locator(".note")).to_contain_text("Stopped after")
        await until(lambda: len(router.cancels) == 1)
        router.stall_after_steps = None
        await send(watched, "and?")
        await answered(watched)
    history = [user("hello"), {"role": "assistant", "content": "It is"}, user("and?")]
    assert router.submits[1].prompt == await actor.prompt_of(*history)


async def test_a_turn_without_an_answer_is_taken_back(world: World) -> None:
    actor = Actor(world, ["", "Yes."])
    router = await actor.router()
    async with opened(actor.url()) as watched:
        await begin(watched)
        await send(watched, "hello")
        await expect(watched.page.locator("#generate-status")).to_have_text("Failed: shard 1 is gone")
        await expect(watched.page.locator(".turn")).to_have_count(0)
        await expect(watched.page.locator("#talk")).to_be_hidden()
        await expect(watched.page.get_by_label("Message")).to_have_value("hello")
        await watched.page.click("#start")
        await answered(watched)
        assert all("503" in fault for fault in watched.faults)
    assert router.submits[1].prompt == await actor.prompt_of(user("hello"))


async def test_system_prompt_thinking_and_the_keyboard(world: World) -> None:
    actor = Actor(world, ["Yes.", "No."])
    router = await actor.router()
    async with opened(actor.url()) as watched:
        page = watched.page
        await begin(watched)
        await page.locator(".chat-settings summary").click()
        await page.get_by_label("System prompt", exact=True).fill("Be brief.")
        await page.get_by_label("Thinking").select_option("off")
        await page.get_by_label("Message").fill("one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("two")
        await expect(page.locator(".turn")).to_have_count(0)
        await page.keyboard.press("Enter")
        await answered(watched)
        await expect(page.get_by_label("Message")).to_be_focused()
        await page.get_by_role("button", name="Clear chat").click()
        await expect(page.locator(".turn")).to_have_count(0)
        await page.get_by_label("Thinking").select_option("")
        await send(watched, "three")
        await answered(watched)
        # The other mode has its own text, and its generation is no turn.
        await page.get_by_label("Continue a text").check()
        await expect(page.get_by_label("Prompt", exact=True)).to_have_value("def read_file(path):")
        await expect(page.locator("#talk")).to_be_hidden()
        await begin(watched)
        await expect(page.locator(".turn")).to_have_count(2)
        assert watched.faults == []
    system = {"role": "system", "content": "Be brief."}
    expected = await actor.prompt_of(system, user("one\ntwo"), template_kwargs={"enable_thinking": False})
    assert router.submits[0].prompt == expected
    assert router.submits[1].prompt == await actor.prompt_of(system, user("three"))


async def test_a_long_answer_has_no_pictures(world: World) -> None:
    """The rest of the chat is as ever. Each mode has its own number of tokens."""
    actor = Actor(world, ["Yes."])
    router = await actor.router()
    async with opened(actor.url()) as watched:
        page = watched.page
        await begin(watched)
        await expect(page.get_by_label("Tokens", exact=True)).to_have_value("512")
        await page.get_by_label("Tokens", exact=True).fill("1025")
        await send(watched, "hello")
        await expect((await answered(watched)).locator("> .said")).to_have_text("Yes.")
        given = len(router.submits[0].prompt)
        await expect(page.locator("#generate-status")).to_contain_text(f"1,024 tokens of a prompt (it has {given})")
        await expect(page.locator("#tokens .token")).to_have_count(0)
        await page.get_by_label("Continue a text").check()
        await expect(page.get_by_label("Tokens", exact=True)).to_have_value("96")
        await begin(watched)
        await expect(page.get_by_label("Tokens", exact=True)).to_have_value("1025")
        assert watched.faults == []


async def test_without_a_template_there_is_no_chat_and_the_reason_is_said(world: World) -> None:
    world.text = replace(world.text, chat=None)
    actor = Actor(world, ["Yes."])
    await actor.router()
    async with opened(actor.url()) as watched:
        page = watched.page
        await expect(page.get_by_text("the model has no chat template")).to_be_visible()
        await expect(page.get_by_label("Chat", exact=True)).to_be_disabled()
        await expect(page.locator("#chat")).to_be_hidden()
        await page.click("#start")
        await expect(page.locator("#generate-status")).to_contain_text("Ended")
        assert watched.faults == []


async def test_a_template_without_the_switch_has_none(world: World) -> None:
    world.text = replace(world.text, chat=ChatTemplate("{{ messages[0].content }}", {}))
    actor = Actor(world, ["Yes."])
    await actor.router()
    async with opened(actor.url()) as watched:
        await begin(watched)
        await watched.page.locator(".chat-settings summary").click()
        await expect(watched.page.get_by_label("System prompt", exact=True)).to_be_visible()
        await expect(watched.page.locator("#thinking")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
async def test_every_width_and_theme(world: World, width: int, scheme: str, tmp_path: Path) -> None:
    actor = Actor(world, [f"<think>{'hm ' * 40}</think>Let me look at it. {'word' * 60}\n{CALL}"])
    await actor.router()
    async with opened(actor.url(), width, scheme, reduced_motion="reduce") as watched:
        page = watched.page
        await begin(watched)
        await page.locator(".chat-settings summary").click()
        await page.get_by_label("Tools, a JSON list").fill(json.dumps([LOOK]))
        await send(watched, "what is it? " * 20)
        await (await answered(watched)).locator("details summary").click()
        assert await watched.overflow() <= 0
        path = Path(os.environ.get("EXPERTMESH_SCREENSHOTS", tmp_path)) / f"page-chat-{scheme}-{width}.png"
        await page.locator("#generate").screenshot(path=path)
        assert path.stat().st_size > 10_000
        assert watched.faults == []

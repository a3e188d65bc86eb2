"""Templates render side by side: one that takes long holds up no other."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import grpc
import pytest

from router_service.front.api.prompts import chat_prompt
from router_service.front.api.prompts.chat_prompt import render_chat
from router_service.front.errors import RequestError
from router_service.protocol.chat_messages import chat_of
from router_service.text.chat import ChatError, ChatTemplate
from router_service.text.chats.conversation import Conversation
from router_service.text.generation_config import SamplingDefaults
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.templates import pool as pool_module
from router_service.text.templates.pool import TemplatePool
from router_service.text.templates.process import TemplateError
from router_service.text.text_model import TextModel
from tests.unit.front.front_fakes import WAIT_S, byte_level_tokenizer


class Worker:
    """Answers what it is asked, "slow" only when it may."""

    made: list["Worker"]
    go_on: threading.Event
    slow: threading.Semaphore

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup = setup
        self.pid = len(self.made)
        self.made.append(self)

    def ask(self, question: dict[str, Any], _: float) -> dict[str, Any]:
        if question["template"] == "bad":
            raise TemplateError("it has ended")
        if question["template"] == "slow":
            self.slow.release()
            assert self.go_on.wait(WAIT_S)
        return {"text": question["template"]}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Worker]]:
    Worker.made, Worker.go_on, Worker.slow = [], threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr(pool_module, "TemplateWorker", Worker)
    yield Worker
    Worker.go_on.set()


def asked(pool: TemplatePool, name: str) -> "Future[Any]":
    return pool.submit(lambda: pool.ask({"template": name})["text"])


def test_others_go_on_beside_a_slow_one(workers: type[Worker]) -> None:
    pool = TemplatePool({}, {}, size=2)
    slow = asked(pool, "slow")
    assert workers.slow.acquire(timeout=WAIT_S)
    assert [asked(pool, "quick").result(WAIT_S) for _ in range(5)] == ["quick"] * 5
    assert not slow.done()
    workers.go_on.set()
    assert slow.result(WAIT_S) == "slow"
    assert len(workers.made) == 2
    assert sorted(pool.pids) == [0, 1]


def test_there_are_no_more_processes_than_places(workers: type[Worker]) -> None:
    pool = TemplatePool({}, {}, size=2)
    slow = [asked(pool, "slow") for _ in range(2)]
    assert all(workers.slow.acquire(timeout=WAIT_S) for _ in slow)
    waiting, left = asked(pool, "quick"), asked(pool, "quick")
    assert left.cancel()  # whoever waits may leave
    assert not waiting.done()
    workers.go_on.set()
    assert waiting.result(WAIT_S) == "quick"
    assert len(workers.made) == 2


def test_one_that_has_ended_is_replaced(workers: type[Worker]) -> None:
    pool = TemplatePool({}, {}, size=2)
    with pytest.raises(TemplateError, match="it has ended"):
        asked(pool, "bad").result(WAIT_S)
    assert pool.pids == []
    assert asked(pool, "quick").result(WAIT_S) == "quick"
    assert len(workers.made) == 2


async def test_a_request_waits_for_others_only_so_long(workers: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    text = TextModel(JsonTokenizer(byte_level_tokenizer()), ChatTemplate("x", {}), SamplingDefaults())
    assert text.chat is not None
    for _ in range(pool_module.MAX_PROCESSES):
        text.chat.submit(lambda: workers.go_on.wait(WAIT_S))
    monkeypatch.setattr(chat_prompt, "RENDER_WAIT_SECONDS", 0.01)
    chat = chat_of([{"role": "user", "content": "a"}])
    with pytest.raises(RequestError, match=r"other chats have been rendered for 0\.01 s; try again") as caught:
        await render_chat(chat, text)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    workers.go_on.set()
    monkeypatch.setattr(chat_prompt, "RENDER_WAIT_SECONDS", WAIT_S)
    assert (await render_chat(chat, text)).text == "default"


async def test_a_hostile_conversation_beside_others() -> None:
    """With real processes: one computes until it is ended, the others are rendered."""
    source = (
        "{% if messages[0].content == 'x' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
        "{% endfor %}{% endif %}{{ messages[0].content }}"
    )
    template = ChatTemplate(source, {})
    started = threading.Event()

    def hostile() -> str:
        started.set()
        return template.render(Conversation([{"role": "user", "content": "x"}]))

    slow = template.submit(hostile)
    assert await asyncio.to_thread(started.wait, WAIT_S)
    for word in "abc":
        conversation = Conversation([{"role": "user", "content": word}])
        assert await asyncio.wrap_future(template.submit(lambda one=conversation: template.render(one))) == word
    with pytest.raises(ChatError, match="it takes more than 1"):
        await asyncio.wrap_future(slow)

"""What a router logs of requests that Fronts send it, beside what becomes of them."""

import asyncio
import logging
from typing import Any

import pytest

from tests.unit.front.front_fakes import until
from tests.unit.router.service import Brake, Service, ask

LOGGER = "router_service.router.request_log"


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    """`logged(message)`: the values of all such lines of the router."""
    caplog.set_level(logging.INFO)
    return lambda message: [r.fields for r in caplog.records if (r.name, r.message) == (LOGGER, message)]  # type: ignore[attr-defined]


async def test_a_request_is_logged_when_it_comes_and_when_it_is_finished(service: Service, logged: Any) -> None:
    await service.start()
    await ask(service, [5, 6, 7], 4, request_id="a")
    await service.idle()
    assert logged("request accepted") == [{"request_id": "a", "prompt_tokens": 3, "max_tokens": 4}]
    (line,) = logged("request finished")
    assert {"request_id": "a", "finish": "length", "prompt_tokens": 3, "tokens": 4}.items() <= line.items()
    assert line["decode_seconds"] > 0


async def test_a_request_that_is_cancelled_is_logged(service: Service, logged: Any) -> None:
    await service.start()
    Brake(service.routers[0], steps=1)  # it must not be finished before its client has left
    stream = service.client.generate(tokens=[5], max_tokens=40, temperature=0, ignore_eos=True, request_id="left")
    await anext(stream)
    await stream.aclose()
    await until(lambda: len(logged("request cancelled")) == 1)
    assert logged("request cancelled")[0]["request_id"] == "left"
    await service.idle()


async def test_a_request_that_is_refused_is_logged(service: Service, logged: Any) -> None:
    await service.start(max_sequences=1, max_waiting=1)
    brake = Brake(service.routers[0])  # or the first would have ended before the last has come
    asked = [asyncio.create_task(ask(service, [5], 40, request_id=str(number))) for number in range(6)]
    await until(lambda: sum(one.done() for one in asked) == 4)
    brake.release()
    refused = [one for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, Exception)]
    assert len(refused) == 4
    lines = logged("request failed")
    assert [line["code"] for line in lines] == ["RESOURCE_EXHAUSTED"] * 4
    ids = {line["request_id"] for line in lines}
    assert ids <= set("012345")
    assert {line["request_id"] for line in logged("request accepted")} == set("012345") - ids
    await service.idle()

"""The `openai` library, unchanged, against a whole cluster: nothing but its base URL is ours."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel

from router_service.client.client import Client
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay

pytestmark = pytest.mark.e2e

MODEL = "expertmesh-bundled"
HTTP = re.compile(r"http=(\S+?)/ ")
QUESTION = [{"role": "user", "content": "Document shutil.copyfile"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


class Verdict(BaseModel):
    mood: Literal["good", "bad"]
    stars: Literal[1, 2, 3]


class Addresses(BaseModel):
    grpc: str
    http: str


@pytest.fixture(scope="module")
def addresses(shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    log = tmp_path_factory.mktemp("openai") / "log"
    flags = ("--tool-parser", "hermes", "--http-port", "0", *shared_ray.joined_as("openai"))
    with serving("--shards", "2", *flags, log=log) as server:
        found = HTTP.search(Path(log).read_text())
        assert found
        yield Addresses(grpc=server.target, http=found[1])


@pytest.fixture
def client(addresses: Addresses) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{addresses.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_http_streams_and_grpc_give_the_same_answer(client: OpenAI, addresses: Addresses) -> None:
    asked = {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "seed": 5}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    async def over_grpc() -> str:
        async with Client(addresses.grpc) as grpc:
            return "".join([one.text async for one in grpc.generate(messages=QUESTION, max_tokens=24, seed=5)])

    assert whole.choices[0].message.content == streamed == asyncio.run(over_grpc())
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_answers_drawn_together_are_those_of_their_seeds(client: OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "import os", "max_tokens": 8, "temperature": 1.0}
    together = client.completions.create(**asked, n=3, seed=40)
    alone = [client.completions.create(**asked, seed=40 + number).choices[0].text for number in range(3)]
    assert [choice.text for choice in together.choices] == alone


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert all(entry.top_logprobs[0].logprob == pytest.approx(entry.logprob) for entry in entries)


def test_an_answer_of_a_given_form(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Verdict, temperature=1.5, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_a_tool_that_must_be_called(client: OpenAI) -> None:
    asked = {"model": MODEL, "messages": QUESTION, "tools": [TOOL], "tool_choice": "required", "temperature": 1.2}
    whole = client.chat.completions.create(**asked, seed=2, parallel_tool_calls=False)
    (call,) = whole.choices[0].message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) in ({"city": "Rome"}, {"city": "Oslo"})
    pieces = [
        delta
        for chunk in client.chat.completions.create(**asked, seed=2, parallel_tool_calls=False, stream=True)
        for choice in chunk.choices
        for delta in choice.delta.tool_calls or ()
    ]
    assert "".join(piece.function.arguments or "" for piece in pieces) == call.function.arguments


def test_responses(client: OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input="Document shutil.copyfile", max_output_tokens=24, temperature=0)
    with client.responses.stream(
        model=MODEL, input="Document shutil.copyfile", max_output_tokens=24, temperature=0
    ) as stream:
        last = stream.get_final_response() if list(stream) else None
    assert last is not None
    assert last.output_text == whole.output_text != ""


async def test_many_at_once(addresses: Addresses) -> None:
    async with AsyncOpenAI(base_url=f"{addresses.http}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": MODEL, "prompt": "def read(", "max_tokens": 16, "temperature": 0}
        answers = await asyncio.gather(*(client.completions.create(**asked) for _ in range(8)))
    assert len({answer.choices[0].text for answer in answers}) == 1


def test_what_is_wrong_is_named(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="temperature") as refused:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=-1)
    assert refused.value.param == "temperature"
    assert {model.id for model in client.models.list()} == {MODEL}

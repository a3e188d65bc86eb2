"""Requests made to cost more than they are worth: refused by their size, before anything is done with them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import byte_level_tokenizer
from tests.unit.front.front_world import World

MILLION = 1_000_000
LARGE = 64 << 20


class Untouched(JsonTokenizer):
    """Encodes and decodes short texts only."""

    def __init__(self) -> None:
        super().__init__(byte_level_tokenizer())

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert len(text) < 10_000
        return super().encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        assert len(ids) < 10_000
        return super().decode(ids, skip_special_tokens)

    def id_of(self, token: str) -> int | None:
        raise AssertionError(f"{token} is looked up")


class NoTemplate:
    """One whose process nothing may take."""

    pid = None

    def submit(self, work: object) -> None:
        raise AssertionError(f"{work} is rendered")


@pytest.fixture
async def stub(world: World, text: TextModel) -> Any:
    fakes: dict[str, Any] = {"tokenizer": Untouched(), "chat": NoTemplate()}
    world.text = replace(text, **fakes)
    await world.router(context=200)
    client = await world.front(max_request_bytes=LARGE)
    await client.wait_ready(10)
    return InferenceStub(grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}"))


def messages(count: int) -> pb.Chat:
    return pb.Chat(messages=[pb.Message(role="user")] * count)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chat": messages(MILLION)}, "chat.messages: at most 16384 messages, got 1000000: leave the oldest out"),
        ({"chat": messages(16385)}, "chat.messages: at most 16384 messages, got 16385"),
        (
            {"chat": pb.Chat(messages=[pb.Message(role="user", content="a" * 9000)] * 20)},
            "chat.messages: has 180000 characters, at most ",
        ),
        ({"prompt": "a" * (16 << 20)}, "prompt: has 16777216 characters, at most "),
        ({"tokens": pb.TokenIds(ids=[3] * (4 * MILLION))}, "tokens: has 4000000 tokens, at most 199 are allowed"),
        (
            {"tokens": pb.TokenIds(ids=[3]), "sampling": pb.Sampling(stop=["a"] * MILLION)},
            "sampling.stop: at most 16 stop strings, got 1000000",
        ),
        (
            {"tokens": pb.TokenIds(ids=[3]), "sampling": pb.Sampling(stop_token_ids=[3] * MILLION)},
            "sampling.stop_token_ids: at most 64 tokens, got 1000000",
        ),
        (
            {"tokens": pb.TokenIds(ids=[3]), "sampling": pb.Sampling(logit_bias=dict.fromkeys(range(100_000), 1.0))},
            "sampling.logit_bias: at most 300 tokens, got 100000",
        ),
        ({"tokens": pb.TokenIds(ids=[3]), "cache_salt": "a" * MILLION}, "cache_salt: at most 256 characters"),
    ],
)
async def test_it_is_refused_by_its_size(stub: Any, world: World, fields: dict[str, object], message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [_ async for _ in stub.Generate(pb.GenerateRequest(**fields))]  # type: ignore[arg-type]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(message)
    # And the Front serves others as before.
    assert ids_of(await collect(world.clients[0], tokens=[3, 4], max_tokens=3)) == [3, 4, 3]


async def test_other_calls_are_bounded_too(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="ids: at most 1048576 ids, got 2000000: send them in several"):
        await stub.Detokenize(pb.DetokenizeRequest(ids=[3] * 2 * MILLION))
    with pytest.raises(grpc.aio.AioRpcError, match="at most 16384 messages"):
        await stub.Tokenize(pb.TokenizeRequest(chat=messages(MILLION)))


async def test_a_long_detokenize_is_the_same_text(world: World) -> None:
    _, client = await world.serve()
    ids = list(range(3, 300)) * 40
    assert await client.detokenize(ids) == world.text.tokenizer.decode(ids)

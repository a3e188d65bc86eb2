"""A tokenizer with tokens that the model lacks: what would reach the model is refused, with the token and its text."""

from dataclasses import replace

import grpc
import pytest
from tokenizers import AddedToken

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.text.chat import ChatTemplate
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import TEMPLATE, VOCABULARY, byte_level_tokenizer
from tests.unit.front.front_world import World

BEYOND = "<|think|>"


@pytest.fixture(scope="module")
def larger() -> JsonTokenizer:
    """The usual one, and tokens added until one is behind the vocabulary."""
    tokenizer = byte_level_tokenizer()
    size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(f"<|{n}|>", special=True) for n in range(size, VOCABULARY)])
    tokenizer.add_special_tokens([AddedToken(BEYOND, special=True)])
    return JsonTokenizer(tokenizer)


@pytest.fixture
async def served(world: World, text: TextModel, larger: JsonTokenizer) -> World:
    # Its end of sequence is such a token too, as published configurations have it.
    beyond = VOCABULARY
    assert larger.id_of(BEYOND) == beyond
    defaults = replace(text.defaults, eos_token_ids=(2, beyond))
    world.text = replace(text, tokenizer=larger, chat=ChatTemplate(TEMPLATE, {}), defaults=defaults)
    await world.serve()
    return world


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": f"hello {BEYOND}"}, "prompt: token 512 ('<|think|>') is not in the model's vocabulary, 0 to 511"),
        (
            {"chat": pb.Chat(messages=[pb.Message(role="user", content=BEYOND)]), "allow_special_tokens": True},
            "chat: token 512 ('<|think|>') is not in the model's vocabulary, 0 to 511: the tokenizer has it",
        ),
        ({"tokens": pb.TokenIds(ids=[3, 512])}, "tokens.ids[1]: token 512 ('<|think|>') is not in the vocabulary"),
        ({"tokens": pb.TokenIds(ids=[3, 600])}, "tokens.ids[1]: token 600 is not in the vocabulary, 0 to 511"),
        (
            {"prompt": "a", "sampling": pb.Sampling(stop_token_ids=[512])},
            "sampling.stop_token_ids[0]: token 512 ('<|think|>') is not in",
        ),
        (
            {"prompt": "a", "sampling": pb.Sampling(logit_bias={512: 1.0})},
            "sampling.logit_bias[512]: token 512 ('<|think|>') is not in",
        ),
    ],
)
async def test_it_is_refused_by_its_text(served: World, fields: dict[str, object], message: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.grpc_port}") as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(**fields))  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in call]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(message)
    assert served.routers[0].submits == []


async def test_what_the_model_cannot_draw_is_no_stop_of_a_router(served: World) -> None:
    (client,) = served.clients
    responses = await collect(client, tokens=[5, 6, 7], max_tokens=4, stop=[BEYOND, "<|400|>"])
    assert ids_of(responses) == [5, 6, 7, 5]
    assert served.routers[0].submits[0].sampling.stop_token_ids == (400, 2)

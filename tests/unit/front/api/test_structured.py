"""What an answer must be: out of the API's fields, refused by the field's name, and handed to the router."""

import re

import grpc
import pytest

from router_service.front.api.structured import MAX_CHOICE_BYTES, MAX_CHOICES, structured_of
from router_service.front.errors import RequestError
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.messages import Structured
from router_service.structured.grammar import GrammarError
from router_service.structured.grammars import Grammars
from tests.support.structured import ENDS, bundled_tokenizer
from tests.unit.front.front_world import World

TEXTS = [
    "a",
    "a.b",
    "[x]",
    "é|ü",
    "\\d+",
    " ",
    "a\nb",
    'say "hi"',
    "日本🙂",
    "\x00",
    "(",
    "x{2}z",
    "^$",
    "-",
    "#",
    "ax",
]


def choice(*texts: str) -> pb.Sampling:
    return pb.Sampling(choice=pb.Choices(texts=texts))


def test_fields() -> None:
    assert structured_of(pb.Sampling()) is None
    assert structured_of(pb.Sampling(json_object=True)) == Structured("json_schema", '{"type":"object"}')
    assert structured_of(pb.Sampling(json_schema="{}")) == Structured("json_schema", "{}")
    assert structured_of(pb.Sampling(regex="a+")) == Structured("regex", "a+")
    assert structured_of(pb.Sampling(grammar='start: "a"')) == Structured("grammar", 'start: "a"')


def test_a_choice_has_its_texts_and_no_other() -> None:
    made = structured_of(choice(*TEXTS, "a"))
    assert made is not None
    grammars, tokenizer = Grammars(bundled_tokenizer, 3072, ENDS), bundled_tokenizer()
    for text in TEXTS:
        matcher = grammars.open(made, tokenizer.encode(text, add_special_tokens=False))
        assert matcher.allowed[0] & 0b101  # the ends' bits
    for text in ("b", "axb", "aa", "xx", "\\w", "{"):
        with pytest.raises(GrammarError):
            grammars.open(made, tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        (pb.Sampling(json_object=False), "sampling.json_object: must be true"),
        (pb.Sampling(json_schema=""), "sampling.json_schema: must not be empty"),
        (pb.Sampling(regex=""), "sampling.regex: must not be empty"),
        (pb.Sampling(grammar=""), "sampling.grammar: must not be empty"),
        (choice(), f"sampling.choice: must have 1 to {MAX_CHOICES} texts, has 0"),
        (choice(*map(str, range(MAX_CHOICES + 1))), f"has {MAX_CHOICES + 1}"),
        (choice("a", ""), "sampling.choice[1]: must not be empty"),
        (choice("a" * (MAX_CHOICE_BYTES + 1)), f"may have {MAX_CHOICE_BYTES} bytes together"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(sampling: pb.Sampling, named: str) -> None:
    with pytest.raises(RequestError) as refused:
        structured_of(sampling)
    assert (refused.value.code, named in refused.value.message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        (pb.Sampling(json_schema='{"type": "array", "uniqueItems": true}'), "sampling.json_schema: .*uniqueItems"),
        (pb.Sampling(json_schema="[" * 1000), "sampling.json_schema: is nested deeper"),
        (pb.Sampling(regex="(["), r"sampling.regex: .*unclosed"),
        (pb.Sampling(grammar="start: other"), "sampling.grammar: .*other"),
    ],
    ids=str,
)
async def test_what_no_router_could_compile_is_refused_before_one_is_asked(
    world: World, sampling: pb.Sampling, named: str
) -> None:
    router, _ = await world.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(prompt="hello", sampling=sampling))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            [_ async for _ in call]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.match(named, str(refused.value.details()))
    assert router.submits == []


async def test_the_router_is_told(world: World) -> None:
    router, _ = await world.serve()
    sampling = pb.Sampling(regex="a+", max_tokens=2)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(prompt="hello", sampling=sampling))
        assert [response async for response in call]
    assert [submit.sampling.structured for submit in router.submits] == [Structured("regex", "a+")]

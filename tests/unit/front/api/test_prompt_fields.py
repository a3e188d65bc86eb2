"""What a request says of its prompt: echo, truncation, the tokenizer's special tokens."""

from dataclasses import replace
from typing import Any

import grpc
import pytest

from router_service.front.api.answers.prompt_echo import PART_CHARACTERS, PART_TOKENS
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of
from tests.unit.front.front_fakes import byte_fallback_tokenizer
from tests.unit.front.front_world import World


def echo_in(responses: Responses) -> tuple[str, list[int]]:
    text = "".join(response.prompt_text for response in responses)
    return text, [id for response in responses for id in response.prompt_token_ids]


async def test_an_echo_is_in_the_first_response(world: World) -> None:
    _, client = await world.serve()
    ids = await client.tokenize("hello world")
    responses = await collect(client, "hello world", echo=True, max_tokens=5)
    check_one_end(responses)
    assert (responses[0].prompt_text, list(responses[0].prompt_token_ids)) == ("hello world", ids)
    assert echo_in(responses) == ("hello world", ids)
    assert echo_in(await collect(client, "hello world", max_tokens=5)) == ("", [])


async def test_the_echo_of_a_chat_is_what_the_template_made(world: World) -> None:
    router, client = await world.serve()
    text, ids = echo_in(await collect(client, messages=[{"role": "user", "content": "hi"}], echo=True, max_tokens=1))
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ids == router.submits[0].prompt


async def test_the_echo_of_token_ids_is_their_text(world: World) -> None:
    _, client = await world.serve()
    ids = [1, *await client.tokenize("hello")]
    assert echo_in(await collect(client, tokens=ids, echo=True, max_tokens=1)) == ("<|im_start|>hello", ids)


@pytest.mark.parametrize("prompt", ["ab" * PART_CHARACTERS, "\U0001f600" * 3000, "the quick brown fox " * 900])
async def test_a_long_echo_comes_in_parts_before_the_first_token(world: World, prompt: str) -> None:
    router, client = await world.serve(context=1 << 20)
    world.context = 1 << 20
    client = await world.front()
    await client.wait_ready(10)
    responses = await collect(client, prompt, echo=True, max_tokens=3)
    check_one_end(responses)
    assert echo_in(responses) == (prompt, router.submits[-1].prompt)
    filled = [bool(response.prompt_token_ids or response.prompt_text) for response in responses]
    assert filled == sorted(filled, reverse=True)
    assert all(len(response.prompt_text) <= PART_CHARACTERS for response in responses)
    assert all(len(response.prompt_token_ids) <= PART_TOKENS for response in responses)
    assert all(not response.token_ids for response in responses[: sum(filled) - 1])
    assert len(ids_of(responses)) == 3


async def test_the_last_tokens_are_kept(world: World) -> None:
    router, client = await world.serve()
    ids = await client.tokenize("the quick brown fox")
    responses = await collect(client, "the quick brown fox", truncate_prompt_tokens=3, echo=True, max_tokens=1)
    assert router.submits[0].prompt == ids[-3:]
    assert echo_in(responses) == (await client.detokenize(ids[-3:]), ids[-3:])
    assert responses[-1].usage.prompt_tokens == 3
    await collect(client, tokens=ids, truncate_prompt_tokens=2, max_tokens=1)
    await collect(client, "the quick brown fox", truncate_prompt_tokens=len(ids) + 5, max_tokens=1)
    assert [submit.prompt for submit in router.submits[1:]] == [ids[-2:], ids]


async def test_a_prompt_that_is_too_long_may_be_truncated(world: World) -> None:
    router, client = await world.serve(context=64)
    await collect(client, tokens=[5] * 1000, truncate_prompt_tokens=60, max_tokens=1)
    await collect(client, "hello " * 200, truncate_prompt_tokens=60, max_tokens=1)
    assert [len(submit.prompt) for submit in router.submits] == [60, 60]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens: must be at least 1, got 0: leave it out to keep"),
        (
            {"truncate_prompt_tokens": 1 << 20, "tokens": [5] * 5000},
            "tokens: has 5000 tokens, at most 4095 are allowed",
        ),
    ],
)
async def test_what_leaves_nothing_or_too_much_is_refused(world: World, fields: dict[str, Any], message: str) -> None:
    _, client = await world.serve()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, **{"tokens": [5], "max_tokens": 1} | fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(message)


async def test_a_prompt_without_the_tokenizers_special_tokens(world: World, text: TextModel) -> None:
    router = await world.router()
    client = await world.front(text=replace(text, tokenizer=JsonTokenizer(byte_fallback_tokenizer())))
    await client.wait_ready(10)
    for fields in ({}, {"add_special_tokens": True}, {"add_special_tokens": False}):
        await collect(client, "hi", max_tokens=1, **fields)
    begun, asked, bare = [submit.prompt for submit in router.submits]
    assert begun == asked == [1, *bare]


@pytest.mark.parametrize("top_k", [0, -1])
async def test_a_top_k_that_keeps_all(world: World, top_k: int) -> None:
    router, client = await world.serve()
    await collect(client, "hi", max_tokens=1, top_k=top_k)
    assert router.submits[0].sampling.top_k == 0

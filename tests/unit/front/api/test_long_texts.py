"""Long texts are encoded and decoded beside the event loop, and those that are far too long not at all."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from router_service.front.api.prompts.prompt import MAX_TOKENIZED, encode_input, encode_request
from router_service.front.api.prompts.text_encoding import LONG_TEXT_CHARACTERS
from router_service.front.api.prompts.token_texts import text_of_ids
from router_service.front.errors import RequestError
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel
from tests.unit.front.front_fakes import WAIT_S, byte_level_tokenizer

LIMITS = LengthLimits(context=100_000, prompt=90_000, vocabulary=512)
SMALL = LengthLimits(context=200, prompt=199, vocabulary=512)
LONG = "hello world " * 1000
IDS = [100] * (LONG_TEXT_CHARACTERS + 1)


class Meeting(JsonTokenizer):
    """Works only while the event loop does: it waits for a task of the loop, which waits for it."""

    def __init__(self) -> None:
        super().__init__(byte_level_tokenizer())
        self.working, self.go_on = threading.Event(), threading.Event()

    def _meet(self) -> None:
        self.working.set()
        assert self.go_on.wait(WAIT_S), "it holds the event loop"

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        self._meet()
        return super().encode(text, add_special_tokens)

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:
        self._meet()
        return super().encode_parts(parts, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        self._meet()
        return super().decode(ids, skip_special_tokens)


class Letters(JsonTokenizer):
    """Each character is a token; `encoded` has the lengths of the texts."""

    def __init__(self) -> None:
        super().__init__(byte_level_tokenizer())
        self.encoded: list[int] = []

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:  # noqa: ARG002
        self.encoded.append(len(text))
        return [5] * len(text)


CALLS: dict[str, Callable[[TextModel], Coroutine[Any, Any, object]]] = {
    "prompt": lambda text: encode_input(pb.GenerateRequest(prompt=LONG), text, LIMITS),
    "plain prompt": lambda text: encode_input(
        pb.GenerateRequest(prompt=LONG, allow_special_tokens=False), text, LIMITS
    ),
    "chat": lambda text: encode_input(pb.GenerateRequest(chat=chat(LONG)), text, LIMITS),
    "marked chat": lambda text: encode_input(pb.GenerateRequest(chat=chat(LONG + "<|im_end|>")), text, LIMITS),
    "tokenize": lambda text: encode_request(pb.TokenizeRequest(prompt=LONG), text, LIMITS),
    "tokenize a chat": lambda text: encode_request(pb.TokenizeRequest(chat=chat(LONG)), text, LIMITS),
    "detokenize": lambda text: text_of_ids(pb.DetokenizeRequest(ids=IDS), text.tokenizer, 512),
}


def chat(content: str) -> pb.Chat:
    return pb.Chat(messages=[pb.Message(role="user", content=content)])


@pytest.mark.parametrize("call", CALLS)
async def test_the_event_loop_goes_on_meanwhile(text: TextModel, call: str) -> None:
    tokenizer = Meeting()

    async def meet() -> None:
        await asyncio.to_thread(tokenizer.working.wait, WAIT_S)
        tokenizer.go_on.set()

    result, _ = await asyncio.gather(CALLS[call](replace(text, tokenizer=tokenizer)), meet())
    assert result


async def test_many_ids_are_their_text(text: TextModel) -> None:
    ids = [id % 300 for id in range(100_000)]
    request = pb.DetokenizeRequest(ids=ids)
    assert await text_of_ids(request, text.tokenizer, 512) == text.tokenizer.decode(ids)
    request.skip_special_tokens = False
    assert await text_of_ids(request, text.tokenizer, 512) == text.tokenizer.decode(ids, skip_special_tokens=False)
    assert await text_of_ids(pb.DetokenizeRequest(), text.tokenizer, 512) == ""


@pytest.mark.parametrize("at", [0, 70_000, 99_999])
async def test_an_id_that_is_not_the_models_is_named_wherever_it_is(text: TextModel, at: int) -> None:
    ids = [7] * 100_000
    ids[at] = 512
    with pytest.raises(RequestError, match=rf"ids\[{at}\]: token 512 is not in the vocabulary, 0 to 511"):
        await text_of_ids(pb.DetokenizeRequest(ids=ids), text.tokenizer, 512)
    tokens = pb.TokenIds(ids=ids)
    with pytest.raises(RequestError, match=rf"tokens\.ids\[{at}\]: token 512"):
        await encode_input(pb.GenerateRequest(tokens=tokens), text, replace(LIMITS, context=200_000, prompt=150_000))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(prompt="x" * 30_000), "prompt"),
        (pb.GenerateRequest(prompt="x" * 30_000, allow_special_tokens=False), "prompt"),
        (pb.GenerateRequest(chat=chat("x" * 30_000)), "chat"),
    ],
)
async def test_a_prompt_that_cannot_fit_is_not_encoded(
    text: TextModel, request_: pb.GenerateRequest, field: str
) -> None:
    tokenizer = Letters()
    tokenizer.longest = 1000  # so that it is not refused by the longest token alone
    with pytest.raises(RequestError, match=rf"{field}: has over 199 tokens, at most 199 are allowed"):
        await encode_input(request_, replace(text, tokenizer=tokenizer), SMALL)
    assert sum(tokenizer.encoded) < 3000


async def test_one_that_is_truncated_is_encoded_whole(text: TextModel) -> None:
    tokenizer = Letters()
    tokenizer.longest = 1000
    request = pb.GenerateRequest(prompt="x" * 30_000, truncate_prompt_tokens=9)
    assert (await encode_input(request, replace(text, tokenizer=tokenizer), SMALL)).ids == [5] * 9
    assert tokenizer.encoded == [30_000]


async def test_of_many_ids_only_those_that_are_kept_are_looked_at(text: TextModel) -> None:
    tokens = pb.TokenIds(ids=[600] * 100_000 + [7, 8, 9])
    given = await encode_input(pb.GenerateRequest(tokens=tokens, truncate_prompt_tokens=2), text, SMALL)
    assert (given.ids, given.truncated) == ([8, 9], True)


async def test_tokenize_has_a_bound_of_its_own(text: TextModel) -> None:
    tokenizer = Letters()
    tokenizer.longest = 1000
    letters = replace(text, tokenizer=tokenizer)
    # Longer than the context: an application may want to know by how much.
    assert len(await encode_request(pb.TokenizeRequest(prompt="x" * 5000), letters, SMALL)) == 5000
    with pytest.raises(RequestError, match=f"prompt: has {MAX_TOKENIZED + 1} tokens, at most {MAX_TOKENIZED} are"):
        await encode_request(pb.TokenizeRequest(prompt="x" * (MAX_TOKENIZED + 1)), letters, SMALL)
    tokenizer.encoded = []
    for request in (pb.TokenizeRequest(prompt="x" * (15 << 20)), pb.TokenizeRequest(chat=chat("x" * (15 << 20)))):
        with pytest.raises(RequestError, match=rf"has over {MAX_TOKENIZED} tokens"):
            await encode_request(request, letters, SMALL)
    assert max(tokenizer.encoded) < 10 * MAX_TOKENIZED
    tokenizer.longest = 1
    with pytest.raises(RequestError, match="prompt: has 15728640 characters, at most 1048576 are allowed"):
        await encode_request(pb.TokenizeRequest(prompt="x" * (15 << 20)), letters, SMALL)


async def test_a_model_with_a_longer_context_tokenizes_more(text: TextModel) -> None:
    tokenizer = Letters()
    limits = LengthLimits(context=MAX_TOKENIZED + 50, prompt=MAX_TOKENIZED + 49, vocabulary=512)
    request = pb.TokenizeRequest(prompt="x" * (MAX_TOKENIZED + 50))
    assert len(await encode_request(request, replace(text, tokenizer=tokenizer), limits)) == MAX_TOKENIZED + 50

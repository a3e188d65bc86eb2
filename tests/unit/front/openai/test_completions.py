"""/v1/completions: prompts of all kinds, echo, log-probabilities."""

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from router_service.front.openai.answers.chunks import ReplyHead
from router_service.front.openai.answers.completion_reply import CompletionReply
from router_service.front.openai.replies import made
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Logprob, StreamOutput, Submit, TokenLogprobs
from tests.unit.front.front_fakes import echo
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call

COMPLETIONS = "/v1/completions"


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["text"] for choice in choices)


async def test_prompts_of_all_kinds(caller: Caller) -> None:
    by_text = await caller.complete("hello world", max_tokens=3)
    ids = (await caller.post("/tokenize", prompt="hello world"))["tokens"]
    by_ids = await caller.complete(ids, max_tokens=3)
    assert by_text["choices"] == by_ids["choices"]
    for prompts in (["hello world", "a stop"], [ids, ids]):
        reply = await caller.complete(prompts, max_tokens=3, n=2)
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
        assert [choice["text"] for choice in reply["choices"]][:2] == [by_text["choices"][0]["text"]] * 2
        assert reply["usage"]["completion_tokens"] == 12
        assert reply["usage"]["prompt_tokens"] >= 2 * len(ids) - 4


async def test_several_prompts_stream_side_by_side(caller: Caller) -> None:
    asked = {"prompt": ["hello", "the quick", "world"], "max_tokens": 4, "n": 2}
    reply = await caller.post(COMPLETIONS, **asked)
    *chunks, last, done = await caller.stream(COMPLETIONS, **asked, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert [text_of(chunks, index) for index in range(6)] == [choice["text"] for choice in reply["choices"]]
    assert last["usage"]["completion_tokens"] == reply["usage"]["completion_tokens"] == 24
    assert last["usage"]["prompt_tokens"] == reply["usage"]["prompt_tokens"]


async def test_each_prompt_is_a_request_of_its_own(world: World) -> None:
    router, caller = await call(world)
    async with caller:
        await caller.complete(["hello", "world"], max_tokens=2, request_id="both")
    assert sorted(submit.request_id for submit in router.submits) == ["both-0", "both-1"]


def scored(submit: Submit) -> Iterator[StreamOutput]:
    """Echoes, with a log-probability of -i for token i of the prompt, and a better token for each."""
    first, *rest = echo(submit)
    asked = submit.sampling.prompt_logprobs
    prompt = [] if asked is None else enumerate(submit.prompt)
    yield msgspec.structs.replace(
        first,
        prompt_logprobs=[TokenLogprobs(Logprob(id, -float(i)), [Logprob(300, -0.25)][:asked]) for i, id in prompt],
    )
    yield from rest


async def test_log_likelihoods_as_an_evaluation_asks_for_them(world: World) -> None:
    """A prompt of token ids, echoed with its log-probabilities, and one token that is dropped."""
    _, caller = await call(world, script=scored)
    async with caller:
        ids = (await caller.post("/tokenize", prompt="hello world"))["tokens"]
        reply = await caller.complete(ids, echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234)
        *chunks, _ = await caller.stream(COMPLETIONS, prompt=ids, echo=True, logprobs=1, max_tokens=1)
        extra = await caller.complete(ids, prompt_logprobs=1, max_tokens=1)
    (choice,) = reply["choices"]
    logprobs = choice["logprobs"]
    assert {len(column) for column in logprobs.values()} == {len(ids) + 1}
    assert logprobs["token_logprobs"] == [None, *(-float(i) for i in range(1, len(ids))), -0.5]
    assert logprobs["top_logprobs"][0] is None
    assert max(logprobs["top_logprobs"][1].values()) == -0.25
    assert set(logprobs["top_logprobs"][1].values()) == {-0.25, -1.0}
    assert chunks[0]["choices"][0]["logprobs"] == logprobs
    first, second, *_ = extra["choices"][0]["prompt_logprobs"]
    assert first is None
    assert second[str(ids[1])] == {"logprob": -1.0, "rank": None, "decoded_token": logprobs["tokens"][1]}
    assert second["300"]["rank"] == 1
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert choice["text"].startswith("hello world")
    offsets = logprobs["text_offset"]
    assert [choice["text"][at:] for at in offsets] == ["".join(logprobs["tokens"][i:]) for i in range(len(offsets))]


async def test_the_prompt_alone(caller: Caller) -> None:
    reply = await caller.complete("hello world", echo=True, max_tokens=0, logprobs=1)
    (choice,) = reply["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello world", "length")
    assert reply["usage"]["completion_tokens"] == 0
    *chunks, _ = await caller.stream(COMPLETIONS, prompt="hello world", echo=True, max_tokens=0)
    assert text_of(chunks) == "hello world"


async def test_echo_comes_first_in_each_stream(world: World) -> None:
    asked = {"prompt": "hello world", "max_tokens": 4, "echo": True, "n": 2, "logprobs": 1}
    _, caller = await call(world, script=scored)
    async with caller:
        reply = await caller.post(COMPLETIONS, **asked)
        *chunks, _ = await caller.stream(COMPLETIONS, **asked)
    for index in range(2):
        assert text_of(chunks, index) == reply["choices"][index]["text"]
        pieces = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        for column in ("tokens", "text_offset", "token_logprobs"):
            streamed = [one for piece in pieces if piece for one in piece[column]]
            assert streamed == reply["choices"][index]["logprobs"][column]


class Large:
    """A reply of `entries` entries that says which thread makes it."""

    def __init__(self, entries: int) -> None:
        self.entries = entries

    def reply(self) -> bytes:
        return threading.current_thread().name.encode()


async def test_a_large_reply_is_made_beside_the_event_loop() -> None:
    here = threading.current_thread().name.encode()
    assert await made(Large(10)) == here
    assert await made(Large(1_000_000)) != here


async def test_replies_count_their_entries() -> None:
    body = CompletionBody(prompt="a", logprobs=2, n=2)
    reply = CompletionReply(body, ReplyHead("cmpl-a", 1, "tiny"))
    token = pb.TokenLogprob(token_id=1, top=[pb.TokenLogprob(token_id=1), pb.TokenLogprob(token_id=2)])
    reply.add(0, pb.GenerateResponse(token_ids=[1], logprobs=[token] * 5, prompt_logprobs=[token] * 4))
    assert reply.entries == 2 * 9 * 3


async def test_sixteen_tokens_unless_told_otherwise(caller: Caller) -> None:
    assert (await caller.complete("hello", ignore_eos=True))["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"suffix": "end"}, "suffix", "is not supported"),
        ({"best_of": 3}, "best_of", "use n"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": ["a", [1]]}, "prompt[1]", "same kind"),
        ({"prompt": [[1], [2, 9999999]]}, "prompt[1][1]", "is not in the vocabulary"),
        ({"prompt": [-1]}, "prompt[0]", "got -1"),
        ({"prompt": ["a"] * 129}, "prompt", "at most 128"),
        ({"prompt": ["a"] * 9, "n": 128}, "prompt", "at most 1024 answers"),
        ({"prompt": [1, "a"]}, "prompt[0]", "same kind"),
        ({"max_tokens": 0}, "max_tokens", "must be 1 to"),
        ({"logprobs": 21}, "logprobs", "must be 0 to 20"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "without stream"),
    ],
)
async def test_what_is_refused(caller: Caller, fields: dict[str, Any], param: str, said: str) -> None:
    status, error = await caller.refused(COMPLETIONS, **({"prompt": "hello"} | fields))
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(f"{param}: ")
    assert said in error["message"]

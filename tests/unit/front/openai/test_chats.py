"""/v1/chat/completions: the form of replies and events, and what their fields ask for."""

from typing import Any

import pytest

from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def test_a_reply(caller: Caller) -> None:
    reply = await caller.chat(max_tokens=4, request_id="mine")
    assert (reply["id"], reply["object"], reply["model"]) == ("chatcmpl-mine", "chat.completion", "tiny")
    (choice,) = reply["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason", "stop_reason"}
    assert set(choice["message"]) == {"role", "content", "refusal"}
    assert reply["usage"] == {
        "prompt_tokens": reply["usage"]["prompt_tokens"],
        "completion_tokens": 4,
        "total_tokens": reply["usage"]["prompt_tokens"] + 4,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_events(caller: Caller) -> None:
    reply = await caller.chat(max_tokens=5)
    *chunks, done = await caller.stream(CHAT, messages=HELLO, max_tokens=5)
    assert done == "[DONE]"
    assert chunks[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert text_of(chunks) == reply["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_at_the_end_or_all_the_time(caller: Caller) -> None:
    asked = {"messages": HELLO, "max_tokens": 3}
    *chunks, last, _ = await caller.stream(CHAT, **asked, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)
    told = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, _ = await caller.stream(CHAT, **asked, stream_options=told)
    assert [chunk["usage"]["prompt_tokens"] for chunk in chunks] == [last["usage"]["prompt_tokens"]] * len(chunks)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert 1 <= counts[0] <= counts[-1] == 3


async def test_several_answers(caller: Caller) -> None:
    reply = await caller.chat(n=3, max_tokens=3)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["completion_tokens"] == 9
    *chunks, _ = await caller.stream(CHAT, messages=HELLO, max_tokens=3, n=3)
    for index in range(3):
        assert text_of(chunks, index) == reply["choices"][index]["message"]["content"]
        roles = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index and "role" in c["delta"]]
        assert len(roles) == 1


async def test_logprobs(caller: Caller) -> None:
    reply = await caller.chat(max_tokens=3, logprobs=True, top_logprobs=2)
    content = reply["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    assert content[1]["token"].encode() == bytes(content[1]["bytes"])
    assert content[1]["logprob"] == -0.5
    assert [one["logprob"] for one in content[1]["top_logprobs"]] == [-0.5, -9999.0]
    *chunks, _ = await caller.stream(CHAT, messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2)
    streamed = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == content
    plain = await caller.chat(max_tokens=3, logprobs=True)
    assert plain["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_a_stop_text_is_the_reason(caller: Caller) -> None:
    reply = await caller.chat("hello world", max_tokens=30, stop=["world"])
    assert (reply["choices"][0]["finish_reason"], reply["choices"][0]["stop_reason"]) == ("stop", "world")
    assert "world" not in reply["choices"][0]["message"]["content"]
    whole = await caller.chat("hello world", max_tokens=30, stop="world", include_stop_str_in_output=True)
    assert whole["choices"][0]["message"]["content"].endswith("world")


async def test_fields_reach_the_router(world: World) -> None:
    router, caller = await call(world)
    async with caller:
        await caller.chat(
            max_completion_tokens=7,
            max_tokens=9,
            temperature=0.5,
            top_p=0.25,
            top_k=-1,
            min_p=0.125,
            repetition_penalty=2,
            frequency_penalty=-1,
            presence_penalty=1.5,
            seed=-1,
            logit_bias={"5": -100},
            min_tokens=2,
            stop_token_ids=[9],
            ignore_eos=True,
            priority=3,
            cache_salt="s",
            fallback="drop",
            stop=None,
            n=None,
        )
    (submit,) = router.submits
    sampling = submit.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.temperature) == (7, 2, 0.5)
    assert (sampling.top_p, sampling.top_k, sampling.min_p) == (0.25, 0, 0.125)
    assert (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (2, -1, 1.5)
    assert (sampling.seed, sampling.logit_bias) == ((1 << 64) - 1, {5: -100})
    assert (sampling.stop_token_ids, sampling.ignore_eos) == ((9,), True)
    assert (submit.priority, submit.fallback) == (3, "drop")


async def test_extensions(caller: Caller) -> None:
    reply = await caller.chat(max_tokens=2, return_token_ids=True, prompt_logprobs=1)
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]
    assert len(reply["choices"][0]["token_ids"]) == 2
    named = await caller.chat(max_tokens=2, logprobs=True, return_tokens_as_token_ids=True)
    first = reply["choices"][0]["token_ids"][0]
    assert named["choices"][0]["logprobs"]["content"][0]["token"] == f"token_id:{first}"


async def test_echo_repeats_the_last_message_of_the_assistant(caller: Caller) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well, "}]
    told = {"messages": messages, "max_tokens": 3, "echo": True}
    reply = await caller.post(CHAT, **told, continue_final_message=True, add_generation_prompt=False)
    assert reply["choices"][0]["message"]["content"].startswith("Well, ")
    *chunks, _ = await caller.stream(CHAT, **told, continue_final_message=True, add_generation_prompt=False)
    assert text_of(chunks) == reply["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", ["tiny", None, ""])
async def test_the_model_may_be_left_out(caller: Caller, name: str | None) -> None:
    assert (await caller.chat(max_tokens=1, model=name))["model"] == "tiny"

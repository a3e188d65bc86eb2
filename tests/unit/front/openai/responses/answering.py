"""Routers that say given texts, and the `openai` library at their Front."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import openai

from router_service.protocol.messages import Logprob, StreamFailure, StreamOutput, Submit, Timings, TokenLogprobs
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call
from tests.unit.front.tagged_answers import TaggedAnswers

Script = Callable[[Submit], Iterator[StreamOutput]]
THINKS = "<think>two and two</think>It is 4."
CALLS = '<call>add:{"a": 2, "b": 2}</call><call>show:{}</call>'


def saying(world: World, text: str, finish: str = "stop", failure: StreamFailure | None = None) -> Script:
    """A router's answer to everything, one token a step; it ends in a failure, if there is one."""
    ids = world.text.tokenizer.encode(text, False)

    def script(submit: Submit) -> Iterator[StreamOutput]:
        for place, id in enumerate(ids):
            last = place == len(ids) - 1
            logprobs = [TokenLogprobs(Logprob(id, -0.5), [Logprob(id, -0.5)])]
            yield StreamOutput(
                submit.stream,
                [id],
                logprobs if submit.sampling.logprobs is not None else [],
                finish=finish if last and failure is None else None,
                timings=Timings(0.1, 0.1, 0.1, 3),
            )
        if failure is not None:
            yield StreamOutput(submit.stream, [], failure=failure)

    return script


@asynccontextmanager
async def at(
    world: World, text: str = "hello you", finish: str = "stop", failure: StreamFailure | None = None
) -> AsyncIterator[Caller]:
    """A Front whose model says `text`, with the parsers of `tagged_answers`."""
    world.parsers = TaggedAnswers()
    _, caller = await call(world, script=saying(world, text, finish, failure))
    async with caller:
        yield caller


@asynccontextmanager
async def library(world: World, text: str = "hello you", finish: str = "stop") -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        at(world, text, finish) as caller,
        openai.AsyncOpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client

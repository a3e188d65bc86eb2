"""Tokens equal transformers' however a prompt is cut, what came from the cache, and who was preempted."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from experts.transport.base import ShardUnavailable, Transport
from router_service.engine.request import Event
from router_service.models.view import WHOLE_CONTEXT
from router_service.protocol.messages import SamplingParams
from tests.support import oracle
from tests.support.mesh import LogitsSpy, Mesh, greedy, tokens_of
from tests.support.oracle import check_logits
from tests.support.routed import routing_of
from tests.support.tiny import FAMILIES, Tiny

COUNT = 24
# A beginning that all share, and long tails: windows and chunks of every family's tiny checkpoint end within.
SHARED = oracle.prompts(16, seed=5)[-1]
PROMPTS = [SHARED[: 33 - 3 * cut] + prompt for cut, prompt in enumerate(oracle.prompts(5, seed=7))]
EXTRA = {
    "mixtral": {"sliding_window": 12},
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
}


@pytest.fixture(scope="module")
def answers(tiny: Callable[..., Tiny]) -> Callable[[str], tuple[Tiny, list[oracle.Reference]]]:
    made: dict[str, tuple[Tiny, list[oracle.Reference]]] = {}

    def get(family: str) -> tuple[Tiny, list[oracle.Reference]]:
        if family not in made:
            one = tiny(family, **EXTRA.get(family, {}))
            # One by one: the oracle wants prompts of one length together, and these come in any order.
            made[family] = one, [oracle.greedy(one.oracle, [prompt], COUNT)[0] for prompt in PROMPTS]
        return made[family]

    return get


Answers = Callable[[str], tuple[Tiny, list[oracle.Reference]]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 7])
def test_prompts_in_chunks(answers: Answers, family: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, references = answers(family)
    spy = LogitsSpy.on(monkeypatch)
    with Mesh(tiny.plan, 2, max_sequences=1, token_budget=chunk, block_size=4) as mesh:
        for reference in references[:3]:
            (events,) = mesh.generate([reference.prompt], greedy(COUNT))
            assert tokens_of(events) == reference.tokens
            check_logits(torch.cat(spy.steps), reference.logits_GV)
            spy.steps.clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_beside_decoding_a_cached_beginning_and_preemption(answers: Answers, family: str) -> None:
    """Five requests in a cache that holds two: each is preempted, comes back, and finds some of what it had written."""
    tiny, references = answers(family)
    with Mesh(tiny.plan, 2, max_sequences=5, token_budget=12, block_size=4, kv_cache_tokens=160) as mesh:
        for _ in range(2):
            outputs = mesh.generate([reference.prompt for reference in references], greedy(COUNT))
            assert [tokens_of(events) for events in outputs] == [reference.tokens for reference in references]
        scheduler = mesh.engine.scheduler
        # Where every layer has a window, five requests fit.
        assert (scheduler.preemptions > 0) == (WHOLE_CONTEXT in scheduler.blocks.views)
        assert scheduler.cache_hits > 0
        assert {record.kind for record in mesh.records} == {"prefill", "decode", "mixed"}
        assert mesh.blocks_used == 0


def test_usage_says_what_came_from_the_cache(answers: Answers) -> None:
    tiny, references = answers("mixtral")
    prompt = references[0].prompt
    with Mesh(tiny.plan, 2, block_size=4) as mesh:
        cached = []
        for salt in (b"", b"", b"a caller"):
            key = mesh.submit(prompt, greedy(2), cache_salt=salt)
            timings = [event.timings for event in mesh.drain()[key] if event.timings]
            cached.append({one.cached_prompt_tokens for one in timings})
    assert cached == [{0}, {(len(prompt) - 1) // 4 * 4}, {0}]


def test_the_same_conversation_computes_its_new_tokens_only(answers: Answers) -> None:
    tiny, _ = answers("qwen3_moe")
    with Mesh(tiny.plan, 2, block_size=4) as mesh:
        talk = PROMPTS[0]
        for turn in range(4):
            before = sum(record.prompt_tokens for record in mesh.records)
            (events,) = mesh.generate([talk], greedy(6))
            computed = sum(record.prompt_tokens for record in mesh.records) - before
            if turn:
                # The last token that was drawn was never computed.
                assert computed <= 9 + 1 + 4
            talk = talk + tokens_of(events) + PROMPTS[1][:9]


def test_routing_of_each_position_is_returned_once(answers: Answers) -> None:
    """In chunks, from the cache or after a preemption: one list of layers a position, in order."""
    tiny, references = answers("qwen3_moe")
    prompts = [reference.prompt for reference in references]
    with Mesh(tiny.plan, 2) as mesh:
        calm = mesh.generate(prompts, greedy(COUNT), return_routing=True)
    with Mesh(tiny.plan, 2, max_sequences=5, token_budget=12, block_size=4, kv_cache_tokens=160) as mesh:
        mesh.generate(prompts, greedy(COUNT))
        busy = mesh.generate(prompts, greedy(COUNT), return_routing=True)
        assert mesh.engine.scheduler.preemptions > 0
    for one, other in zip(calm, busy, strict=True):
        assert experts_of(one) == experts_of(other)


def experts_of(events: list[Event]) -> list[list[list[int]]]:
    """The experts of each position and layer."""
    return [[layer.experts for layer in position] for position in routing_of(events)]


def test_seeded_tokens_are_the_same_after_preemption(answers: Answers) -> None:
    tiny, references = answers("olmoe")
    params = SamplingParams(max_tokens=COUNT, temperature=1.5, seed=11, repetition_penalty=1.2, frequency_penalty=0.1)
    prompts = [reference.prompt for reference in references]
    with Mesh(tiny.plan, 2) as mesh:
        calm = [tokens_of(events) for events in mesh.generate(prompts, params)]
    with Mesh(tiny.plan, 2, max_sequences=5, token_budget=9, block_size=4, kv_cache_tokens=120) as mesh:
        assert [tokens_of(events) for events in mesh.generate(prompts, params)] == calm
        assert mesh.engine.scheduler.preemptions > 0


class FailsOnce:
    """A transport that cannot send one call."""

    def __init__(self, inner: Any, call: int) -> None:
        self.inner, self.call = inner, call

    def send(self, shard: int, call: Any, lane: int) -> Any:
        self.call -= 1
        if self.call == 0:
            raise ShardUnavailable(shard, "unreachable", "out of luck")
        return self.inner.send(shard, call, lane)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("call", [1, 2, 5, 6, 8])
def test_what_a_step_wrote_that_lost_tokens_is_not_found(answers: Answers, call: int) -> None:
    """A shard fails in one of the chunks: the chunk is repeated, and another request reads only what is whole."""
    tiny, references = answers("mixtral")
    reference = references[0]

    def around(inner: Transport) -> FailsOnce:
        return FailsOnce(inner, call)

    with Mesh(tiny.plan, 2, token_budget=22, max_sequences=16, block_size=4, around=around) as mesh:
        failing = cast(FailsOnce, mesh.engine.pool.transport)
        for _ in range(2):
            (events,) = mesh.generate([reference.prompt], greedy(COUNT))
            assert tokens_of(events) == reference.tokens
        assert failing.call < 0
        assert mesh.engine.scheduler.cache_hits > 0


@pytest.mark.parametrize("caching", [True, False])
def test_prefix_caching_can_be_turned_off(answers: Answers, caching: bool) -> None:
    tiny, references = answers("mixtral")
    with Mesh(tiny.plan, 1, block_size=4, prefix_caching=caching) as mesh:
        for _ in range(2):
            (events,) = mesh.generate([references[0].prompt], greedy(COUNT))
            assert tokens_of(events) == references[0].tokens
        scheduler = mesh.engine.scheduler
        assert (scheduler.cache_queries > 0, scheduler.cache_hits > 0) == (caching, caching)
        assert (scheduler.blocks.cached_tokens > 0) == caching, "what the router's hello says"


def test_a_long_stream_goes_on_elsewhere_with_the_same_tokens(tiny: Callable[..., Tiny]) -> None:
    """8,000 tokens of prompt, 500 of answer: in chunks, resubmitted to another engine half way, and by transformers."""
    made = tiny("qwen3_moe", max_position_embeddings=16384)
    prompt = torch.randint(0, 131, (8000,), generator=torch.Generator().manual_seed(8)).tolist()
    options = {"kv_cache_tokens": 9000, "token_budget": 1024}
    with Mesh(made.plan, 2, **options) as mesh:
        (events,) = mesh.generate([prompt], greedy(500))
        tokens = tokens_of(events)
    with Mesh(made.plan, 2, **options | {"token_budget": 700}) as mesh:
        (rest,) = mesh.generate([[*prompt, *tokens[:250]]], greedy(500), prompt_length=len(prompt))
        assert tokens_of(rest) == tokens[250:]
    logits, _ = oracle.forced(made.oracle, torch.tensor([prompt + tokens[:-1]]))
    assert logits[0, len(prompt) - 1 :].argmax(-1).tolist() == tokens

"""What is computed without some experts stays with its own request: in the prefix cache nobody finds it."""

from collections.abc import Callable
from typing import cast

import pytest
import torch

from router_service.engine.request import Event
from router_service.protocol.fallback import Fallback
from tests.support import oracle
from tests.support.lossy import Lossy
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.silenced import before_call
from tests.support.tiny import Tiny, random_prompts

BLOCK, COUNT = 4, 8
DEAD = {0, 1, 2}
PROMPT = random_prompts(1, 21, seed=8)[0] * 2


def lossy_of(mesh: Mesh) -> Lossy:
    """What loses the mesh's shards."""
    return cast(Lossy, mesh.engine.pool.transport)


def cached(events: list[Event]) -> int:
    """Prompt tokens that were found in the cache."""
    timings = events[-1].timings
    assert timings is not None
    return timings.cached_prompt_tokens


@pytest.fixture
def mesh(tiny: Callable[..., Tiny]) -> Mesh:
    return Mesh(tiny("mixtral").plan, 6, block_size=BLOCK, around=Lossy)


@pytest.mark.parametrize("policy", [Fallback.DROP, Fallback.NEXT_BEST])
@pytest.mark.parametrize("known", [True, False])
def test_a_prompt_that_was_read_degraded_is_read_again(mesh: Mesh, policy: Fallback, known: bool) -> None:
    with mesh:
        calm = tokens_of(mesh.generate([PROMPT], greedy(COUNT))[0])
        mesh.engine.scheduler.clear()
        transport = lossy_of(mesh)
        (transport.dead if known else transport.dying).update(DEAD)
        first, second = (mesh.generate([PROMPT], greedy(COUNT), fallback=policy)[0] for _ in range(2))
        assert all(event.degraded for event in (*first, *second))
        # The first position needed a dead expert in the first two layers, else blocks before it would be clean.
        assert cached(second) == 0
        transport.dead = set()
        after = mesh.generate([PROMPT], greedy(COUNT))[0]
        assert (tokens_of(after), cached(after)) == (calm, 0)
        assert not any(event.degraded for event in after)
        again = mesh.generate([PROMPT], greedy(COUNT), fallback=policy)[0]
        assert (tokens_of(again), cached(again)) == (calm, (len(PROMPT) - 1) // BLOCK * BLOCK)
        assert not any(event.degraded for event in again)


def test_what_was_computed_before_the_loss_is_found(mesh: Mesh) -> None:
    """A degraded request uses others' clean blocks, and leaves its own up to the first that is not clean."""
    with mesh:
        transport, beginning = lossy_of(mesh), PROMPT[:18]
        mesh.generate([beginning], greedy(1))
        transport.dead = DEAD
        degraded = mesh.generate([PROMPT], greedy(COUNT), fallback=Fallback.DROP)[0]
        assert cached(degraded) == 16
        transport.dead = set()
        assert cached(mesh.generate([PROMPT], greedy(1))[0]) == 16


def test_the_last_layer_leaves_no_trace(mesh: Mesh, tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys and values are made of what a token lacks there: it alone is degraded, and its block is found."""
    made, prompt = tiny("mixtral"), PROMPT[:BLOCK]
    with mesh:
        transport = lossy_of(mesh)
        mesh.submit(prompt, greedy(9), fallback=Fallback.DROP)
        events = [event for _ in range(3) for event in mesh.engine.step()]
        before_call(monkeypatch, mesh, "dispatch", 2, lambda: transport.dead.update(range(6)))
        events += mesh.engine.step()
        transport.dead.clear()
        (rest,) = mesh.drain().values()
        events += rest
        assert [event.degraded for event in events] == [place == 3 for place in range(9)]
        tokens = tokens_of(events)
        expected = oracle.forced(made.oracle, torch.tensor([prompt + tokens[:-1]]))[0][0, BLOCK - 1 :].argmax(-1)
        assert tokens[:3] + tokens[4:] == expected[:3].tolist() + expected[4:].tolist()
        assert mesh.engine.fallback_tokens[Fallback.DROP] == 1
        assert cached(mesh.generate([[*prompt, *tokens, 7]], greedy(1))[0]) == 12


def test_what_is_computed_again_is_judged_again(tiny: Callable[..., Tiny]) -> None:
    """A preempted request computes its degraded tokens' keys and values anew, and with all experts."""
    made, prompts = tiny("mixtral"), [PROMPT[:8], PROMPT[8:16]]
    with Mesh(made.plan, 6, block_size=BLOCK, kv_cache_tokens=48, around=Lossy) as mesh:
        transport = lossy_of(mesh)
        transport.dead = DEAD
        mesh.submit(prompts[0], greedy(28), fallback=Fallback.NEXT_BEST)
        key = mesh.submit(prompts[1], greedy(28), fallback=Fallback.NEXT_BEST)
        events = [event for _ in range(3) for event in mesh.engine.step()]
        transport.dead = set()
        while not mesh.engine.scheduler.preemptions:
            events += mesh.engine.step()
        events = [event for event in events if event.key == key]
        assert all(event.degraded for event in events)
        rest = mesh.drain()[key]
        assert not any(event.degraded for event in rest)
        tokens = tokens_of(events + rest)
        whole = oracle.forced(made.oracle, torch.tensor([prompts[1] + tokens[:-1]]))[0][0, 7:].argmax(-1).tolist()
        assert tokens[len(events) :] == whole[len(events) :]

"""A request for which something raises fails alone: the others of its step have the same tokens as ever."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import router_service.engine.conclusion
import router_service.engine.step.computation
import router_service.engine.step.prompt_scores
from router_service.engine.faults.apart import apart
from router_service.engine.request import Event, Request
from router_service.engine.sampling.rows import SampleRow
from router_service.engine.step.layer_run import LayerRun
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.tiny import Tiny

POISON = 13
PROMPTS = [[5, 6, 7], [8, 9], [3] * 6, [11, 4], [2, 2], [12]]
POISONED = [7, POISON, 9]
PARAMS = {
    "seed": 5,
    "logprobs": 1,
    "prompt_logprobs": 0,
    "logit_bias": {3: 2.0, POISON: -100.0},
    "repetition_penalty": 1.1,
}


@pytest.fixture
def mesh(tiny: Callable[..., Tiny]) -> Iterator[Mesh]:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        yield mesh


def has_poison(value: Any) -> bool:
    """Whether an argument is of the poisoned request, in whatever form the stage gets it."""
    if isinstance(value, Request | SampleRow):
        return POISON in value.tokens
    if hasattr(value, "token_ids_T"):
        return POISON in value.token_ids_T.tolist()
    if hasattr(value, "token_ids"):
        return POISON in value.token_ids
    return isinstance(value, Sequence) and not isinstance(value, str) and any(map(has_poison, value))


def raising(work: Callable[..., Any], after: bool, poisonous: Callable[[tuple[Any, ...]], bool]) -> Callable[..., Any]:
    """`work`, which raises whenever the poisoned request is among what it is called with."""

    def wrapped(*args: Any, **values: Any) -> Any:
        bad = poisonous(args)
        if bad and not after:
            raise LookupError("out of luck")
        done = work(*args, **values)
        if bad:
            raise LookupError("out of luck")
        return done

    return wrapped


def run_all(mesh: Mesh, prompts: list[list[int]]) -> list[list[Event]]:
    params = greedy(5, **PARAMS)
    return mesh.generate(prompts, params, return_routing=True)


def poison_stage(patch: pytest.MonkeyPatch, mesh: Mesh, stage: str, after: bool) -> None:
    owners: dict[str, Any] = {
        "build_batch": router_service.engine.step.computation,
        "scored_rows": router_service.engine.step.computation,
        "forward": router_service.engine.step.computation,
        "attention": mesh.engine.backbone.__class__,
        "_score": router_service.engine.step.prompt_scores,
        "sample": router_service.engine.conclusion,
        "trace_routing": router_service.engine.conclusion,
        "advance": mesh.engine.scheduler.__class__,
        "append": mesh.engine.scheduler.__class__,
        **dict.fromkeys(("prompt_events", "finish_after", "next_event", "add_routing", "add_scores"), Request),
    }
    poisonous = has_poison
    if stage == "append":  # which gets a key

        def poisonous(args: tuple[Any, ...]) -> bool:
            return POISON in mesh.engine.requests[args[1]].tokens

    patch.setattr(owners[stage], stage, raising(getattr(owners[stage], stage), after, lambda args: poisonous(args)))


STAGES = (
    "build_batch", "scored_rows", "forward", "attention", "_score", "sample", "trace_routing", "advance", "append",
    "prompt_events", "finish_after", "next_event", "add_routing", "add_scores",
)  # fmt: skip
# Done once they have raised behind their work: repeated, they have nothing left to do.
DONE_THEN = ("_score", "add_routing", "add_scores")


@pytest.mark.parametrize(
    ("stage", "after"),
    [(stage, after) for stage in STAGES for after in (False, True) if stage not in DONE_THEN or not after],
)
def test_the_others_of_the_step_go_on(
    mesh: Mesh, stage: str, after: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calm = [tokens_of(events) for events in run_all(mesh, PROMPTS)]
    poison_stage(monkeypatch, mesh, stage, after)
    *others, bad = run_all(mesh, [*PROMPTS, POISONED])
    assert [tokens_of(events) for events in others] == calm
    (failure,) = [event.failure for event in bad if event.failure is not None]
    assert failure is bad[-1].failure
    assert failure.code == "INTERNAL"
    assert "cannot compute this request (LookupError)" in failure.message
    assert "out of luck" in caplog.text
    assert (mesh.engine.request_faults, mesh.blocks_used, mesh.engine.sound) == (1, 0, True)


def test_a_fault_behind_a_dispatch_leaves_no_reply_to_the_next_call(
    tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over sockets: what was asked is read, so that no connection is given up and nobody waits for a new one."""
    with Mesh(tiny("deepseek_v3").plan, 2, way="unix") as mesh:
        calm = [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(4))]
        shared = mesh.engine.backbone.shared
        calls = iter(range(100))

        def once(layer: int, h_TD: Any) -> Any:
            if next(calls) == 1:
                raise LookupError("out of luck")
            return shared(layer, h_TD)

        monkeypatch.setattr(type(mesh.engine.backbone), "shared", lambda _, *args: once(*args))
        assert [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(4))] == calm
        assert mesh.connector is not None
        assert [connection.connects for connection in mesh.connector.connections] == [1, 1]


def test_what_raises_once_and_never_again_costs_nobody(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(4))]
    layers, calls = LayerRun.advance, iter(range(1000))

    def once(run: LayerRun) -> bool:
        if next(calls) == 2:
            raise LookupError("out of luck")
        return layers(run)

    monkeypatch.setattr(LayerRun, "advance", once)
    assert [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(4))] == calm


def test_a_token_that_the_embedding_lacks_fails_its_own_request(mesh: Mesh) -> None:
    calm = [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(4))]
    *others, bad = mesh.generate([*PROMPTS, [7, 1 << 20]], greedy(4))
    assert [tokens_of(events) for events in others] == calm
    assert bad[-1].failure is not None


def test_a_router_that_fails_whatever_it_is_given_is_not_sound(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request fails, and after three such steps so does what anybody could compute; then the fault is over."""

    def broken(*_: Any) -> Any:
        raise LookupError("an error that stays")

    with monkeypatch.context() as patch:
        patch.setattr(type(mesh.engine.backbone), "attention", broken)
        for step in range(3):
            assert mesh.engine.sound
            keys = {mesh.submit(prompt, greedy(4)) for prompt in PROMPTS}
            events = mesh.engine.step()
            assert {event.key for event in events if event.failure} == keys, step
        for key in keys:
            mesh.engine.requests.forget(key)
        assert mesh.engine.step() == []  # the proof's own step
        assert not mesh.engine.sound
    for request in mesh.engine.requests:
        mesh.engine.requests.forget(request.key)
    assert len(tokens_of(mesh.generate([[5, 6]], greedy(3))[0])) == 3
    assert mesh.engine.sound


def test_requests_that_are_to_blame_themselves_cost_nobody_the_router(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_stage(monkeypatch, mesh, "build_batch", after=False)
    for _ in range(10):
        (events,) = mesh.generate([POISONED], greedy(4))
        assert events[-1].failure is not None
        while not mesh.engine.idle():
            assert mesh.engine.step() == []
    assert mesh.engine.sound
    assert len(tokens_of(mesh.generate([[5, 6]], greedy(3))[0])) == 3


@pytest.mark.parametrize("bad", [set[int](), {0}, {7}, {2, 3}, set(range(8))])
def test_apart_repeats_only_what_raises(bad: set[int]) -> None:
    calls, failed = [], []

    def work(items: Sequence[int]) -> int:
        calls.append(items)
        if bad.intersection(items):
            raise LookupError
        return len(items)

    done = list(apart(range(8), work, lambda item, _: failed.append(item)))
    assert sorted(failed) == sorted(bad)
    assert [item for part, _ in done for item in part] == [item for item in range(8) if item not in bad]
    assert len(calls) <= max(1, 2 * 8 - 1)

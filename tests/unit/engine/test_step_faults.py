"""Something raises in a step: each request ends in exactly one reply, its blocks are free, and the next is served."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import router_service.engine.conclusion
import router_service.engine.stalls
import router_service.engine.step.computation
from router_service.engine.engine import Engine
from router_service.engine.progress import Progress
from router_service.engine.request import Event, Request
from router_service.engine.stalls import Stalls
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.tiny import Tiny

PROMPTS = [[5, 6, 7], [8, 9], [3] * 6, [11, 4]]
LENGTHS = (1, 3, 6, 6)
OF_STEP = ("forward", "build_batch", "scored_rows", "score_prompts")
OF_CONCLUSION = ("sample", "trace_routing", "nonfinite_rows")
OF_SCHEDULER = ("schedule", "advance", "append", "remove")
OF_ENGINE = ("_expire", "_note_scheduled")
OF_REQUEST = ("finish_after", "next_event")
OF_STALLS = ("begin", "resume")
WATCHING = ("observe", "log_lost", "log_back")


@pytest.fixture
def mesh(tiny: Callable[..., Tiny]) -> Iterator[Mesh]:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        yield mesh


class OnceBroken:
    """Does as `work` does, but the call number `call` raises, before its work or behind it."""

    def __init__(self, work: Callable[..., Any], call: int, after: bool) -> None:
        self.work, self.call, self.after = work, call, after

    def __call__(self, *args: Any) -> Any:
        self.call -= 1
        if self.call == 0 and not self.after:
            raise LookupError("out of luck")
        done = self.work(*args)
        if self.call == 0:
            raise LookupError("out of luck")
        return done


def break_once(patch: pytest.MonkeyPatch, mesh: Mesh, stage: str, call: int, after: bool) -> None:
    owner: Any = router_service.engine.step.computation
    if stage in OF_CONCLUSION:
        owner = router_service.engine.conclusion
    elif stage in OF_SCHEDULER:
        owner = mesh.engine.scheduler
    elif stage in OF_ENGINE:
        owner = Engine
    elif stage in OF_REQUEST:
        owner = Request
    elif stage in OF_STALLS:
        owner = Stalls
    elif stage in ("log_lost", "log_back"):
        owner = router_service.engine.stalls
    elif stage == "observe":
        mesh.engine.observe = OnceBroken(mesh.engine.observe, call, after)
        return
    once = OnceBroken(getattr(owner, stage), call, after)
    patch.setattr(owner, stage, (lambda *args: once(*args)) if isinstance(owner, type) else once)


def ends_of(events: list[Event]) -> list[Event]:
    return [event for event in events if event.finish is not None or event.failure is not None]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(OF_STEP + OF_CONCLUSION + OF_SCHEDULER + OF_ENGINE + OF_REQUEST + OF_STALLS + WATCHING),
    st.integers(1, 5),
    st.booleans(),
)
def test_whatever_raises_each_request_has_one_end(mesh: Mesh, stage: str, call: int, after: bool) -> None:
    """One of the requests has expired already, so that there is an end to be lost in each step."""
    with pytest.MonkeyPatch.context() as patch:
        break_once(patch, mesh, stage, call, after)
        keys = [
            mesh.submit(prompt, greedy(most), return_routing=most > 3)
            for prompt, most in zip(PROMPTS, LENGTHS, strict=True)
        ]
        keys.append(mesh.submit([7], greedy(4), deadline=time.monotonic() - 1))
        events = mesh.drain()
    mesh.engine.observe = mesh.records.append
    for key in keys:
        assert len(ends_of(events[key])) == 1, (key, events[key])
        assert ends_of(events[key]) == events[key][-1:]
    assert (mesh.blocks_used, mesh.engine.idle()) == (0, True)
    assert len(tokens_of(mesh.generate([[5, 6, 7]], greedy(3))[0])) == 3


@pytest.mark.parametrize("stage", ["forward", "sample", "advance", "append"])
def test_what_expired_in_the_step_keeps_its_own_reply(mesh: Mesh, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_once(monkeypatch, mesh, stage, 1, after=False)
    late = mesh.submit([7], greedy(4), deadline=time.monotonic() - 1)
    other = mesh.submit([8], greedy(4))
    codes = {event.key: event.failure.code for event in mesh.engine.step() if event.failure is not None}
    assert codes == {late: "DEADLINE_EXCEEDED", other: "INTERNAL"}


def test_what_finished_before_the_fault_is_finished(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    break_once(monkeypatch, mesh, "append", 2, after=False)
    first, second = mesh.submit([7], greedy(1)), mesh.submit([8], greedy(1))
    events = {event.key: event for event in mesh.engine.step()}
    assert events[first].finish == "length"
    assert events[second].failure is not None


def test_a_broken_observer_costs_no_token(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    calm = tokens_of(mesh.generate([[5, 6, 7]], greedy(5))[0])

    def broken(_: object) -> None:
        raise LookupError("out of luck")

    mesh.engine.observe = broken
    assert tokens_of(mesh.generate([[5, 6, 7]], greedy(5))[0]) == calm
    assert mesh.engine.guard.faults["observe"] == 5
    assert "an observer failed (observe)" in caplog.text


def test_a_long_step_goes_on_layer_by_layer(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own: each layer takes 100 s, so the step takes longer than any one part of it."""
    backbone, now, still = mesh.engine.backbone, 0.0, list[float]()
    mesh.engine.progress = Progress(lambda: now)
    attention = backbone.attention

    def slow(*args: Any) -> Any:
        nonlocal now
        now += 100.0
        still.append(mesh.engine.progress.still_s())
        return attention(*args)

    monkeypatch.setattr(type(backbone), "attention", lambda _, *args: slow(*args))
    mesh.submit([5] * 20, greedy(1))
    mesh.engine.step()
    assert still == [100.0] * backbone.spec.layers
    assert len(still) > 1
    assert mesh.engine.progress.still_s() == 0.0
    now += 130.0  # nothing goes on any more
    assert mesh.engine.progress.still_s() == 130.0

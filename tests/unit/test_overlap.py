"""An expert that all tokens share is computed by the router while the shards compute theirs."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from router_service.engine.stage import Stage
from router_service.engine.step_record import StepRecord
from router_service.models.backbone import Backbone
from tests.mesh import Mesh, greedy
from tests.tiny import Tiny
from tests.undisturbed import undisturbed

# Long beside what a step computes, also where that takes ten times as long as on a quiet machine.
SLEEP = 0.06


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3", "llama4"])
def test_shared_experts_and_shards_work_at_the_same_time(
    tiny: Callable[..., Tiny], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides are made to sleep: in turn a layer would take twice as long."""
    shared = Backbone.shared

    def slow(self: Backbone, layer: int, h_TD: Tensor) -> Tensor:
        time.sleep(SLEEP)
        return shared(self, layer, h_TD)

    monkeypatch.setattr(Backbone, "shared", slow)
    plan = tiny(family).plan
    with Mesh(plan, 2, "unix", delays={0: SLEEP, 1: SLEEP}) as mesh:
        slept = len(plan.spec.moe_layers) * SLEEP
        undisturbed(lambda: mesh.generate([[1, 2, 3]], greedy(6)) and None, lambda: in_turn(mesh.records, slept))
    for record in mesh.records:
        assert record.duration_ns / 1e9 >= record.trace.stages_ns[Stage.SHARED_EXPERT] / 1e9 >= slept


def in_turn(records: list[StepRecord], slept: float) -> list[str]:
    """A complaint if no decode was as fast as both sides at once are."""
    fastest = min((record for record in records if record.kind == "decode"), key=lambda record: record.duration_ns)
    took, waited = fastest.duration_ns / 1e9, fastest.trace.stages_ns[Stage.WAIT] / 1e9
    # Nothing is left to wait for but what the shards took longer.
    if took < 1.7 * slept and waited < 0.5 * slept:
        return []
    return [f"{took:.3f} s, of which {waited:.3f} were waited, for {slept:.3f} of either side's sleep"]


def test_the_order_of_a_layer(tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any) -> Any:
            seen.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, watched)

    with Mesh(tiny("deepseek_v3").plan, 2) as mesh:
        watch(mesh.engine.pool, "dispatch")
        watch(mesh.engine.pool, "combine")
        watch(Backbone, "shared")
        mesh.generate([[1, 2, 3]], greedy(2))
    assert seen == ["dispatch", "shared", "combine"] * 2 * 2

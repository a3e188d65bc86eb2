"""An expert that all tokens share is computed by the router while the shards compute theirs."""

from collections import defaultdict
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from torch import Tensor

from experts.transport.call import ExpertCall
from router_service.models.backbone import Backbone
from tests.support.mesh import WAIT_S, Mesh, greedy
from tests.support.tiny import Tiny


class Meeting:
    """Layer by layer, either side begins, and ends only when the other has begun as well."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], Event] = defaultdict(Event)
        self.met: list[tuple[str, int]] = []

    def wait(self, side: str, other: str, layer: int) -> None:
        self._begun[side, layer].set()
        assert self._begun[other, layer].wait(WAIT_S), f"layer {layer}: {side} had to end before {other} began"
        self.met.append((side, layer))


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3", "llama4"])
def test_shared_experts_and_shards_work_at_the_same_time(
    tiny: Callable[..., Tiny], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other inside its work: in turn neither would get there."""
    meeting, shared, plan = Meeting(), Backbone.shared, tiny(family).plan

    def waiting(self: Backbone, layer: int, h_TD: Tensor) -> Tensor:
        meeting.wait("shared expert", "shard", layer)
        return shared(self, layer, h_TD)

    with Mesh(plan, 2, "unix") as mesh:
        for shard in mesh.servers.shards:
            monkeypatch.setattr(shard, "compute", met_first(meeting, shard.compute))
        monkeypatch.setattr(Backbone, "shared", waiting)
        mesh.generate([[1, 2, 3]], greedy(1))
    assert {layer for side, layer in meeting.met if side == "shared expert"} == set(plan.spec.moe_layers)


def met_first(meeting: Meeting, compute: Callable[[ExpertCall], Tensor]) -> Callable[[ExpertCall], Tensor]:
    """A shard's computation that waits for the shared expert's of its layer."""

    def waiting(call: ExpertCall) -> Tensor:
        meeting.wait("shard", "shared expert", call.layer)
        return compute(call)

    return waiting


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

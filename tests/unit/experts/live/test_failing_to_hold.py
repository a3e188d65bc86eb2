"""What cannot be held changes nothing: no memory for it, a checkpoint that has gone, a change of mind half-way."""

import gc
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from experts.shard.held.states import CopyState
from experts.shard.live_experts import BudgetError
from kernels import select
from kernels.native.panels import Panels
from router_service.models.families.registry import plan_model
from tests.support.live import LiveRig
from tests.support.mesh import CPU
from tests.support.tiny import Tiny


class StopError(Exception):
    """Somebody has changed their mind."""


class GoOn:
    """Raises StopError the `last`-th time it is asked; calls `then` before."""

    def __init__(self, last: int, then: Callable[[], object] = lambda: None) -> None:
        self.asked, self.last, self.then = 0, last, then

    def __call__(self) -> None:
        self.asked += 1
        if self.asked == self.last:
            self.then()
            raise StopError


@pytest.fixture
def rig(tiny: Callable[..., Tiny]) -> LiveRig:
    rig = LiveRig(tiny("mixtral").plan)
    rig.live.hold({0: [1], 1: [0, 5]})
    return rig


def unchanged(rig: LiveRig) -> None:
    assert rig.live.held == {0: (1,), 1: (0, 5), 2: ()}
    assert (rig.live.copying, rig.live.retiring) == (0, 0)
    assert rig.live.weights_bytes == 3 * rig.expert_bytes
    call = rig.call(1, [0, 5])
    assert torch.equal(rig.shard.compute(call), rig.expected(call))


def test_any_piece_may_be_the_last(rig: LiveRig) -> None:
    """Also the question before the swap; after it everything is held."""
    counting = GoOn(0)
    rig.live.hold({2: [3, 4]}, counting)
    rig.live.keep({0: [1], 1: [0, 5]})
    for last in range(1, counting.asked + 1):
        with pytest.raises(StopError):
            rig.live.hold({2: [3, 4]}, GoOn(last))
        unchanged(rig)


def test_copies_are_seen_while_they_are_loaded(rig: LiveRig) -> None:
    seen: list[tuple[int, CopyState, CopyState]] = []

    def look() -> None:
        live = rig.live
        seen.append((live.copying, live.state(0, 2), live.state(0, 1)))

    with pytest.raises(StopError):
        rig.live.hold({0: [1, 2], 2: [2]}, GoOn(3, look))
    assert seen == [(2, CopyState.COPYING, CopyState.HELD)]
    assert rig.live.state(0, 2) is CopyState.DROPPED


def test_what_was_loaded_is_gone_with_the_failure(rig: LiveRig) -> None:
    """Also while somebody keeps the error."""
    loaded: list[weakref.ref[Panels]] = []

    def look() -> None:
        gc.collect()
        loaded.extend(weakref.ref(one) for one in gc.get_objects() if type(one) is Panels)

    gc.collect()
    before = len([one for one in gc.get_objects() if type(one) is Panels])
    with pytest.raises(StopError) as caught:
        rig.live.hold({2: [0, 1, 2]}, GoOn(8, look))
    assert len(loaded) > before
    assert caught.value
    assert sum(one() is not None for one in loaded) == before


def test_the_budget(rig: LiveRig) -> None:
    """Scratch memory counts; a refusal reads nothing and says how much is missing."""
    scratch = 2 * rig.expert_bytes  # dense matrices of an expert, which is stored in the dtype that is kept
    rig.live.budget_bytes = 5 * rig.expert_bytes + scratch - 1
    rig.read.clear()
    with pytest.raises(BudgetError, match=f"it holds {3 * rig.expert_bytes}.* 1 are missing") as caught:
        rig.live.hold({0: [0, 1], 2: [4]})
    assert (caught.value.missing, rig.read) == (1, [])
    unchanged(rig)
    rig.live.budget_bytes += 1
    rig.live.hold({0: [0, 1], 2: [4]})
    rig.live.hold({0: [0]})  # it is held: nothing is needed
    assert sum(rig.read) == 2 * rig.expert_bytes


@pytest.mark.parametrize("wanted", [{7: [0]}, {0: [6]}, {0: [-1]}])
def test_what_the_model_does_not_have(rig: LiveRig, wanted: dict[int, list[int]]) -> None:
    with pytest.raises(ValueError, match="the model has no expert"):
        rig.live.hold(wanted)
    unchanged(rig)


@pytest.mark.parametrize("fault", ["deleted", "truncated"])
def test_a_checkpoint_that_has_gone(tiny: Callable[..., Tiny], tmp_path: Path, fault: str) -> None:
    shutil.copytree(tiny("mixtral").path, tmp_path, dirs_exist_ok=True)
    rig, file = LiveRig(plan_model(Checkpoint(tmp_path))), tmp_path / "model.safetensors"
    rig.live.hold({0: [1], 1: [0, 5]})
    if fault == "deleted":
        file.unlink()
    else:
        os.truncate(file, 1000)
    with pytest.raises((CheckpointError, OSError), match=r"model\.safetensors"):
        rig.live.hold({2: [2]})
    unchanged(rig)


def test_an_expert_that_cannot_compute_is_not_held(tiny: Callable[..., Tiny]) -> None:
    ops = select.ops("native", CPU)
    broken = []

    def ffn(*arguments: Any) -> torch.Tensor:
        if broken:
            raise RuntimeError("a kernel failed")
        return ops.expert_ffn(*arguments)

    rig = LiveRig(tiny("mixtral").plan, ops=replace(ops, expert_ffn=ffn))
    rig.live.hold({0: [1], 1: [0, 5]})
    broken.append(1)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        rig.live.hold({2: [1]})
    unchanged(rig)

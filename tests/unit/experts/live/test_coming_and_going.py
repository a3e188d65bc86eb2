"""Experts come and go in any order: what is held is computed with the same bits, what is not is refused."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cluster.planner.quantize import quantized
from experts.checkpoint.directory import Checkpoint
from experts.config import Backend, WeightsConfig
from experts.shard.held.states import CopyState
from experts.shard.shard import NotHeldError
from experts.transport.call import Form
from kernels import select
from kernels.formats.quantized import Matrix
from kernels.ops import Ops
from kernels.weights import ExpertWeights
from router_service.models.families.registry import ModelPlan, plan_model
from tests.support.formats import FORMATS, write_format
from tests.support.int4_checkpoints import write_int4
from tests.support.live import LiveRig
from tests.support.mesh import CPU
from tests.support.quantize import write_fp8, write_mxfp4
from tests.support.tiny import Tiny, make_tiny

MOST = 6  # experts of each layer that the machine moves
Held = dict[int, set[int]]
experts = st.sets(st.integers(0, MOST - 1), max_size=3)


class Machine(RuleBasedStateMachine):
    """`expected` is what is held; `rig` is made by `make`."""

    make: Callable[[], LiveRig]

    @initialize()
    def begin(self) -> None:
        self.rig = type(self).make()
        self.expected: Held = {layer: set() for layer in self.rig.layers}

    @rule(data=st.data(), wanted=experts)
    def hold(self, data: st.DataObject, wanted: set[int]) -> None:
        layer = data.draw(st.sampled_from(self.rig.layers))
        self.rig.live.hold({layer: sorted(wanted)})
        self.expected[layer] |= wanted

    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        """Some of what is held, and what is not."""
        wanted = {layer: data.draw(experts) for layer in self.rig.layers}
        before = sum(map(len, self.expected.values()))
        freed = self.rig.live.keep({layer: sorted(ids) for layer, ids in wanted.items()})
        self.expected = {layer: held & wanted[layer] for layer, held in self.expected.items()}
        after = sum(map(len, self.expected.values()))
        assert freed == (before - after) * self.rig.expert_bytes

    @rule(data=st.data(), wanted=experts, form=st.sampled_from(Form), seed=st.integers(0, 9))
    def compute(self, data: st.DataObject, wanted: set[int], form: Form, seed: int) -> None:
        layer = data.draw(st.sampled_from(self.rig.layers))
        if not wanted:
            return
        call = self.rig.call(layer, sorted(wanted), seed, form)
        missing = wanted - self.expected[layer]
        if missing:
            with pytest.raises(NotHeldError) as caught:
                self.rig.shard.compute(call)
            assert caught.value.experts == tuple(sorted(missing))
        else:
            assert torch.equal(self.rig.shard.compute(call), self.rig.expected(call))

    @invariant()
    def held_is_as_expected(self) -> None:
        if not hasattr(self, "rig"):
            return
        assert self.rig.live.held == {layer: tuple(sorted(held)) for layer, held in self.expected.items()}
        assert self.rig.live.weights_bytes == sum(map(len, self.expected.values())) * self.rig.expert_bytes
        assert (self.rig.live.copying, self.rig.live.retiring) == (0, 0)
        for layer, held in self.expected.items():
            states = {expert: self.rig.live.state(layer, expert) for expert in range(MOST)}
            assert {expert for expert, state in states.items() if state is CopyState.HELD} == held


@pytest.mark.parametrize(
    ("family", "backend"),
    [("mixtral", "native"), ("gpt_oss", "native"), ("mixtral", "cpu"), ("gpt_oss", "reference")],
)
def test_any_sequence(tiny: Callable[..., Tiny], family: str, backend: Backend) -> None:
    plan = tiny(family).plan

    class Bound(Machine):
        make = staticmethod(lambda: LiveRig(plan, backend=backend))

    run_state_machine_as_test(Bound, settings=settings(max_examples=8, stateful_step_count=12, deadline=None))


def stacking() -> Ops:
    """A backend that stacks matrices, as Triton does."""
    ops = select.ops("reference", CPU)

    def stacked(gate_up: Any, down: Any, *rest: Any) -> ExpertWeights:
        return ops.prepare_weights(_stacked(gate_up), _stacked(down), *rest)

    return replace(ops, prepare_weights=stacked)


def _stacked(matrices: tuple[Matrix, ...]) -> torch.Tensor:
    return torch.stack([w for w in matrices if isinstance(w, torch.Tensor)])


def test_a_backend_that_stacks_matrices(tiny: Callable[..., Tiny]) -> None:
    plan = tiny("gpt_oss").plan

    class Bound(Machine):
        make = staticmethod(lambda: LiveRig(plan, ops=stacking()))

    run_state_machine_as_test(Bound, settings=settings(max_examples=5, stateful_step_count=12, deadline=None))


SIXTEENS = {"moe_intermediate_size": 32, "intermediate_size": 64}


def _plan(path: Path, form: str) -> ModelPlan:
    if form in ("int4-at-load", "int8-at-load"):
        make_tiny(path, "qwen3_moe")
        plan = plan_model(Checkpoint(path))
        weights = WeightsConfig("dequantized", "int4" if form == "int4-at-load" else "int8")
        return replace(plan, tensors=quantized(plan.tensors, weights, str(path)))
    if form == "mxfp4":
        write_mxfp4(path, make_tiny(path, "gpt_oss").oracle)
    elif form == "fp8-blocks":
        write_fp8(path, make_tiny(path, "qwen3_moe").oracle, (16, 16))
    elif form == "int4":
        write_int4(path, make_tiny(path, "qwen3_moe", **SIXTEENS).oracle, "compressed-tensors", 16)
    else:
        made = make_tiny(path, "qwen3_moe", **(SIXTEENS if "nvfp4" in form else {}))
        write_format(path, made.oracle, FORMATS[form])
    return plan_model(Checkpoint(path))


@pytest.mark.parametrize("backend", ["native", "cpu", "reference"])
@pytest.mark.parametrize(
    "form", ["fp8-channel", "int8", "nvfp4", "mxfp4", "fp8-blocks", "int4", "int4-at-load", "int8-at-load"]
)
def test_every_format(tmp_path: Path, form: str, backend: Backend) -> None:
    """Experts that were loaded one by one, before and after others, compute as if all had been loaded at once."""
    rig = LiveRig(_plan(tmp_path, form), torch.bfloat16, True, backend)
    assert rig.manifest.encoded or rig.manifest.rounds
    layer = rig.layers[-1]
    rig.live.hold({layer: [4, 1]})
    rig.live.hold({layer: [0, 3]})
    rig.live.keep({layer: [0, 3, 4]})
    rig.live.hold({layer: [2]})
    call = rig.call(layer, [0, 2, 3, 4])
    assert torch.equal(rig.shard.compute(call), rig.expected(call))


class Asking:
    """Threads that compute the same calls until the context ends; `answers` has what differed, `count` how many."""

    def __init__(self, rig: LiveRig, layer: int, kept: list[int]) -> None:
        self.calls = [rig.call(layer, kept, seed, form) for seed in range(3) for form in Form]
        self.expected = [rig.expected(call) for call in self.calls]
        self.rig, self.wrong, self.count = rig, list[str](), 0
        self.enough, self._stop = threading.Event(), threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self) -> None:
        with torch.inference_mode():
            while not self._stop.is_set():
                for call, y_ND in zip(self.calls, self.expected, strict=True):
                    if not torch.equal(self.rig.shard.compute(call), y_ND):
                        self.wrong.append("other bits")
                self.count += 1
                self.enough.set()

    def __enter__(self) -> "Asking":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join()

    def again(self) -> None:
        """Wait until some more has been computed."""
        self.enough.clear()
        assert self.enough.wait(60)


@pytest.fixture(params=["native", "cpu"])
def rig(tiny: Callable[..., Tiny], request: pytest.FixtureRequest) -> LiveRig:
    return LiveRig(tiny("gpt_oss").plan, torch.bfloat16, backend=request.param)


def test_computing_goes_on_with_the_same_bits(rig: LiveRig) -> None:
    layer, kept = rig.layers[0], [1, 4]
    rig.live.hold({layer: kept})
    with Asking(rig, layer, kept) as asking:
        for turn in range(12):
            rig.live.hold({layer: [0, 2, turn % 6], rig.layers[1]: [turn % 6]})
            asking.again()
            rig.live.keep({layer: kept})
            asking.again()
    assert asking.wrong == []
    assert asking.count >= 24


def test_what_is_given_up_lives_until_its_calls_have_ended(tiny: Callable[..., Tiny]) -> None:
    """HELD, then RETIRING while a call computes by it, then DROPPED."""
    ops, inside, go = select.ops("native", CPU), threading.Event(), threading.Event()

    def slow(*arguments: Any) -> torch.Tensor:
        inside.set()
        assert go.wait(60)
        return ops.expert_rows(*arguments)

    rig = LiveRig(tiny("mixtral").plan, ops=replace(ops, expert_rows=slow))
    rig.live.hold({0: [2, 3]})
    call, answers = rig.call(0, [2, 3]), list[torch.Tensor]()
    thread = threading.Thread(target=lambda: answers.append(rig.shard.compute(call)))
    thread.start()
    assert inside.wait(60)
    rig.live.keep({0: [3]})
    assert [rig.live.state(0, expert) for expert in (2, 3)] == [CopyState.RETIRING, CopyState.HELD]
    assert rig.live.retiring == 1
    with pytest.raises(NotHeldError):
        rig.shard.compute(call)
    go.set()
    thread.join()
    assert (rig.live.state(0, 2), rig.live.retiring) == (CopyState.DROPPED, 0)
    assert torch.equal(answers[0], rig.expected(call))

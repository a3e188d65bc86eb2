"""Logits to the bit: whoever shares the step, however a prompt is cut, cached or not, on one thread or two.

By the native kernels; with others a token's logits may move by a rounding.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.ops import Backend
from router_service.engine.engine import Engine
from router_service.engine.scheduling.scheduler import ScheduledSequence
from router_service.engine.step.batch_builder import build_batch
from router_service.engine.step.forward import StepTrace, forward
from tests.support.mesh import CPU, Mesh
from tests.support.tiny import FAMILIES, Tiny

BLOCK, LENGTH, SEQUENCES = 4, 70, 3
SHARED = 24
DRAW = torch.Generator().manual_seed(8)
# Sequence 1 begins as sequence 0 does.
PROMPTS = torch.randint(0, 256, (SEQUENCES, LENGTH), generator=DRAW).tolist()
PROMPTS[1][:SHARED] = PROMPTS[0][:SHARED]


class Steps:
    """Steps of an engine's model; each sequence has scattered blocks of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups = [storage.group for storage in engine.backbone.cache.groups]
        for storage in engine.backbone.cache.groups:
            for tensor in storage.tensors:
                tensor.fill_(float("nan"))
        blocks, random = -(-LENGTH // BLOCK), np.random.default_rng(3)
        self.tables = [random.permutation(SEQUENCES * blocks).reshape(SEQUENCES, blocks).tolist() for _ in self.groups]
        self.computed = [0] * SEQUENCES

    def begin_cached(self) -> None:
        """Sequence 1 takes what it shares with sequence 0, which has computed it, from the cache."""
        for tables in self.tables:
            tables[1][: SHARED // BLOCK] = tables[0][: SHARED // BLOCK]
        self.computed[1] = SHARED

    def run(self, lengths: dict[int, int], batches: int = 1) -> dict[tuple[int, int], Tensor]:
        """Compute so many tokens of each sequence; logits by sequence and position, of the last token of each."""
        scheduled = [self._scheduled(key, length) for key, length in lengths.items()]
        parts = [part for part in (scheduled[:1], scheduled[1:]) if part] if batches == 2 else [scheduled]
        made = [build_batch(part, BLOCK, self.groups, CPU) for part in parts]
        logits_LV = forward(self.engine.backbone, self.engine.pool, self.engine.ops, made, StepTrace())
        assert logits_LV is not None
        return {(key, self.computed[key] - 1): logits_V for key, logits_V in zip(lengths, logits_LV, strict=True)}

    def _scheduled(self, key: int, length: int) -> ScheduledSequence:
        start = self.computed[key]
        self.computed[key] += length
        tables = tuple(tables[key] for tables in self.tables)
        return ScheduledSequence(key, PROMPTS[key][start : start + length], start, tables, wants_logits=True)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, tiny: Callable[..., Tiny], dtype: torch.dtype) -> Iterator[Engine]:
    with Mesh(tiny(request.param).plan, 2, dtype=dtype, block_size=BLOCK) as mesh:
        if mesh.engine.ops.backend is not Backend.NATIVE:
            pytest.skip("the native kernels were not built")
        yield mesh.engine


@pytest.fixture(scope="module")
def alone(engine: Engine) -> dict[tuple[int, int], Tensor]:
    """Each sequence by itself, token by token."""
    torch.set_num_threads(1)
    expected: dict[tuple[int, int], Tensor] = {}
    with torch.inference_mode():
        for key in range(SEQUENCES):
            steps = Steps(engine)
            for _ in range(LENGTH):
                expected |= steps.run({key: 1})
    return expected


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@torch.inference_mode()
def test_any_way_gives_the_same_bits(engine: Engine, alone: dict[tuple[int, int], Tensor], data: st.DataObject) -> None:
    steps = Steps(engine)
    lengths = st.sampled_from([1, 1, 2, 5, 13, 30, LENGTH])
    if data.draw(st.booleans(), label="cached"):
        steps.run({0: SHARED})
        steps.begin_cached()
    for _ in range(data.draw(st.integers(1, 5), label="steps")):
        torch.set_num_threads(data.draw(st.sampled_from([1, 2]), label="threads"))
        keys = data.draw(st.lists(st.sampled_from(range(SEQUENCES)), min_size=1, unique=True), label="sequences")
        left = {key: LENGTH - steps.computed[key] for key in keys}
        wanted = {key: min(most, data.draw(lengths, label="tokens")) for key, most in left.items() if most}
        if not wanted:
            continue
        batches = data.draw(st.sampled_from([1, 2]), label="batches")
        for place, logits_V in steps.run(wanted, batches).items():
            assert torch.equal(logits_V, alone[place]), place

"""A prompt cut into chunks gives the logits of the whole prompt, whatever was given back behind a window or a chunk."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from router_service.engine.engine import Engine
from router_service.engine.scheduling.scheduler import ScheduledSequence
from router_service.engine.step.batch_builder import build_batch
from router_service.engine.step.forward import StepTrace, forward
from router_service.models.attention import latent
from tests.support.mesh import CPU, Mesh
from tests.support.tiny import FAMILIES, Tiny

BLOCK, LENGTH, SEQUENCES = 4, 75, 3
PROMPTS = torch.randint(0, 256, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(5)).tolist()
CUTS = {
    "token by token": [1] * LENGTH,
    "a few": [7] * 10 + [5],
    "in the middle of blocks": [18, 19, 1, 37],
    "at the edges of chunks": [16, 32, 16, 11],
    "a long one, then single tokens": [60] + [1] * 15,
    "a single token, then the rest": [1, 74],
    "by many": [40, 35],
}
VARIANTS = {family: (family, {}) for family in FAMILIES} | {
    "mixtral sliding window": ("mixtral", {"sliding_window": 12}),
    "qwen2 sliding window": ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}),
}


class Runner:
    """Steps of an engine's model over scattered blocks, different ones in each cache group.

    Blocks that nobody reads any more are marked as given back and hold NaN, as does what was never written.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups = [storage.group for storage in engine.backbone.cache.groups]
        for storage in engine.backbone.cache.groups:
            for tensor in storage.tensors:
                tensor.fill_(float("nan"))
        blocks, random = -(-LENGTH // BLOCK), np.random.default_rng(3)
        self.tables = [random.permutation(SEQUENCES * blocks).reshape(SEQUENCES, blocks).tolist() for _ in self.groups]
        self.computed = [0] * SEQUENCES

    def step(self, lengths: dict[int, int]) -> Tensor:
        """Compute so many tokens of each sequence; the logits of those that end."""
        scheduled = [self._scheduled(key, length) for key, length in lengths.items()]
        batch = build_batch(scheduled, BLOCK, self.groups, CPU)
        logits = forward(self.engine.backbone, self.engine.pool, self.engine.ops, [batch], StepTrace())
        assert logits is not None
        return logits

    def _scheduled(self, key: int, length: int) -> ScheduledSequence:
        start = self.computed[key]
        self.computed[key] += length
        for number in range(len(self.groups)):
            self._give_back(number, key, start)
        tables = tuple(tables[key] for tables in self.tables)
        return ScheduledSequence(key, PROMPTS[key][start : start + length], start, tables, start + length == LENGTH)

    def _give_back(self, number: int, key: int, start: int) -> None:
        table = self.tables[number][key]
        for place in range(self.groups[number].first_seen(start) // BLOCK):
            if table[place] >= 0:
                for tensor in self.engine.backbone.cache.groups[number].tensors:
                    tensor[:, table[place] * BLOCK : (table[place] + 1) * BLOCK] = float("nan")
                table[place] = -1


@pytest.fixture(params=VARIANTS)
def engine(request: pytest.FixtureRequest, tiny: Callable[..., Tiny]) -> Iterator[Engine]:
    family, changes = VARIANTS[request.param]
    with Mesh(tiny(family, **changes).plan, 2, block_size=BLOCK) as mesh:
        yield mesh.engine


def check(actual: Tensor, expected: Tensor) -> None:
    assert actual.isfinite().all()
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_any_cut_gives_the_logits_of_the_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one prompt alone; the keys of latents are projected for one head at a time."""
    expected = Runner(engine).step({0: LENGTH})
    monkeypatch.setattr(latent, "PROJECTED_BYTES", 1)
    for cut in CUTS.values():
        assert sum(cut) == LENGTH
        runner = Runner(engine)
        *before, last = [runner.step({0: length}) for length in cut]
        assert [len(logits) for logits in before] == [0] * len(before)
        check(last, expected)


@torch.inference_mode()
def test_prompts_in_chunks_beside_each_other(engine: Engine) -> None:
    """Chunks, single tokens and ends of different prompts share steps, as when others decode."""
    whole = Runner(engine)
    expected = torch.cat([whole.step({key: LENGTH}) for key in range(SEQUENCES)])
    runner = Runner(engine)
    runner.step({0: 30})
    runner.step({0: 1, 1: 25, 2: 1})
    runner.step({2: 40, 0: 1, 1: 1})
    check(runner.step({0: 43, 1: 1, 2: 34})[[0, 1]], expected[[0, 2]])
    check(runner.step({1: 48}), expected[[1]])

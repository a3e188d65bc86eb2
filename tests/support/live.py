"""A shard of a tiny model whose experts come and go, beside one that holds them all."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from experts.config import Backend
from experts.placement import placement_of
from experts.shard.held.loader import ExpertLoader
from experts.shard.held.pace import Pace
from experts.shard.live_experts import LiveExperts
from experts.shard.shard import ExpertShard, load_shard
from experts.transport.call import ExpertCall, Form
from kernels import select
from kernels.ops import Ops
from router_service.models.families.registry import ModelPlan
from tests.support.mesh import CPU


@dataclass
class LiveRig:
    """`shard` begins with nothing, `live` changes it; `whole` holds all experts of the model.

    `read` has the bytes of each tensor that was read for it, in the form kept.
    """

    plan: ModelPlan
    dtype: torch.dtype = torch.float32
    keep_packed: bool = False
    backend: Backend = "native"
    ops: Ops | None = None
    budget_bytes: int | None = None
    pace: Pace | None = None
    read: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        manifest = self.plan.tensors.experts
        ops = self.ops or select.ops(self.backend, CPU)
        self.manifest, self.layers, self.experts = manifest, manifest.layers, manifest.experts
        self.whole = self._loaded(0, ops)
        self.shard = self._loaded(1, ops)
        loader = ExpertLoader(self.plan.checkpoint, manifest, self.dtype, CPU, ops, self.keep_packed, self.read.append)
        self.expert_bytes = loader.expert_bytes
        self.live = LiveExperts(self.shard, loader, self.budget_bytes, self.pace)

    def _loaded(self, index: int, ops: Ops) -> ExpertShard:
        placement = placement_of([range(self.experts), []])
        options = {"dtype": self.dtype, "device": CPU, "ops": ops, "keep_packed": self.keep_packed}
        return load_shard(
            index=index, placement=placement, checkpoint=self.plan.checkpoint, manifest=self.manifest, **options
        )

    def call(self, layer: int, experts: list[int], seed: int = 0, form: Form = Form.EACH) -> ExpertCall:
        """Three random rows, each sent to all of these experts."""
        x_RD = torch.randn(3, self.manifest.hidden, generator=torch.Generator().manual_seed(seed)).to(self.dtype)
        experts_A = np.repeat(np.array(sorted(experts), np.int32), 3)
        rows_A = np.tile(np.arange(3, dtype=np.int32), len(experts))
        weights_A = np.random.default_rng(seed).random(len(rows_A), np.float32)
        return ExpertCall(layer, x_RD, rows_A, experts_A, weights_A, form=form)

    def expected(self, call: ExpertCall) -> Tensor:
        """What the shard that holds all answers."""
        return self.whole.compute(call)

    def everything(self) -> dict[int, list[int]]:
        """All experts of all layers."""
        return {layer: list(range(self.experts)) for layer in self.layers}

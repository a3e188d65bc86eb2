"""From a model's configuration to what the processes are built with."""

from dataclasses import dataclass

import torch

from cluster.config import ModelConfig
from experts.checkpoint import Checkpoint
from experts.checkpoint_error import CheckpointError
from experts.config import WeightsConfig
from router_service.front.model_card import ModelCard
from router_service.models.registry import ModelPlan, plan_model
from router_service.models.weights import is_shared_expert, resident_bytes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A planned checkpoint and the dtype and device it will have."""

    plan: ModelPlan
    name: str
    dtype: torch.dtype
    device: torch.device
    keep_packed: bool

    @property
    def router_bytes(self) -> int:
        """Bytes of the router's weights."""
        return resident_bytes(self.plan.tensors.router, self.dtype, self.keep_packed)

    @property
    def shared_expert_bytes(self) -> int:
        """Bytes of the shared experts, which are among the router's weights; 0 in a family without them."""
        shared = {name: source for name, source in self.plan.tensors.router.items() if is_shared_expert(name)}
        return resident_bytes(shared, self.dtype, self.keep_packed)

    def shard_bytes(self, experts: int) -> int:
        """Bytes of a shard that holds `experts` experts of each layer."""
        manifest = self.plan.tensors.experts
        return len(manifest.layers) * experts * manifest.bytes_per_expert(self.dtype, self.keep_packed)

    def card(self) -> ModelCard:
        """The facts that clients see. Active counts all of the router and top_k experts a layer."""
        spec, manifest = self.plan.spec, self.plan.tensors.experts
        router = self.plan.tensors.router_elements
        expert, sparse = manifest.elements_per_expert, len(spec.moe_layers)
        return ModelCard(
            name=self.name,
            family=spec.family,
            context=spec.context,
            vocabulary=spec.vocabulary,
            dtype=str(self.dtype).removeprefix("torch."),
            layers=spec.layers,
            moe_layers=sparse,
            experts=spec.gate.experts,
            experts_per_token=spec.gate.top_k,
            total_parameters=router + sparse * spec.gate.experts * expert,
            active_parameters=router + sparse * spec.gate.top_k * expert,
        )


def open_model(config: ModelConfig, weights: WeightsConfig, verify: bool = False) -> ServedModel:
    """Read the checkpoint's configuration and index, and with `verify` the headers of all its files.

    Raises:
        CheckpointError: see `plan_model`; also a dtype that is not one of the three, or a device that is not there.
    """
    plan = plan_model(Checkpoint(config.path), verify)
    dtype = plan.spec.dtype if config.dtype == "auto" else config.dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"{config.path / 'config.json'}: dtype is {dtype!r}, supported: {', '.join(DTYPES)}")
    device = _device(config.device)
    return ServedModel(plan, config.served_name, DTYPES[dtype], device, weights.keep_packed)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("model.device is cuda, but torch sees no GPU here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)

"""A configured model: its plan, dtype, device and weight form, from which the processes are built."""

from dataclasses import dataclass, replace

import torch

from cluster.config import ModelConfig
from cluster.planner.quantize import left_alone, quantized, rounding_of
from cluster.planner.sizes import experts_bytes, parameters, router_bytes
from experts.checkpoint.deployment_digest import deployment_digest
from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from experts.config import WeightsConfig
from experts.host.shown import shown
from router_service.front.api.model_card import ModelCard
from router_service.models.families.registry import ModelPlan, plan_model
from router_service.models.weights import is_shared_expert, resident_bytes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A planned checkpoint and the dtype, device and form of its weights (which may still be auto) it will have."""

    plan: ModelPlan
    name: str
    dtype: torch.dtype
    device: torch.device
    weights: WeightsConfig

    @property
    def keep_packed(self) -> bool:
        """Whether matrices that are stored in blocks with scales stay so."""
        return self.weights.keep_packed

    @property
    def remade(self) -> bool:
        """Whether the experts' matrices are decoded or rounded when they are read."""
        return self.plan.tensors.experts.rounds or (self.plan.tensors.experts.encoded and not self.keep_packed)

    @property
    def router_bytes(self) -> int:
        """Bytes of the router's weights."""
        return router_bytes(self.plan.tensors, self.dtype, self.keep_packed)

    @property
    def shared_expert_bytes(self) -> int:
        """Bytes of the shared experts, which are among the router's weights; 0 in a family without them."""
        shared = {name: source for name, source in self.plan.tensors.router.items() if is_shared_expert(name)}
        return resident_bytes(shared, self.dtype, self.keep_packed)

    def shard_bytes(self, experts: int) -> int:
        """Bytes of a shard that holds `experts` experts of each layer."""
        return experts_bytes(self.plan.tensors, experts, self.dtype, self.keep_packed)

    def digest(self) -> bytes:
        """What the processes of a deployment must have in common. Reads the headers of all files.

        Raises:
            CheckpointError: a file cannot be read.
        """
        form = "packed" if self.keep_packed else "dequantized"
        if self.weights.quantize != "none":
            form += f", {self.weights.quantize_scope} in {rounding_of(self.weights)}"
        return deployment_digest(self.plan.checkpoint, self.dtype, form)

    def card(self) -> ModelCard:
        """The facts that clients see. Active counts all of the router and top_k experts a layer."""
        spec = self.plan.spec
        counted = parameters(spec, self.plan.tensors)
        return ModelCard(
            name=self.name,
            family=spec.family,
            context=spec.context,
            vocabulary=spec.vocabulary,
            dtype=str(self.dtype).removeprefix("torch."),
            layers=spec.layers,
            moe_layers=len(spec.moe_layers),
            experts=spec.gate.experts,
            experts_per_token=spec.gate.top_k,
            total_parameters=counted.total,
            active_parameters=counted.active,
        )


def open_model(
    config: ModelConfig, weights: WeightsConfig, verify: bool = False, computes_here: bool = True
) -> ServedModel:
    """Read the checkpoint's configuration and index, and with `verify` the headers of all its files.

    With `computes_here` false a GPU that is asked for may be another node's.

    Raises:
        CheckpointError: see `plan_model` and `quantized`; also a dtype that is not one of the three, or a device that
            is not there.
    """
    plan, where = plan_model(Checkpoint(config.path), verify), str(config.path / "config.json")
    tensors = quantized(plan.tensors, weights, where)
    plan = replace(plan, tensors=tensors, notices=(*plan.notices, *left_alone(tensors, weights, where)))
    dtype = dtype_of(config.dtype, plan.spec.dtype, where)
    return ServedModel(plan, config.served_name, dtype, _device(config.device, computes_here), weights)


def dtype_of(asked: str, published: str, where: str) -> torch.dtype:
    """The dtype of the computation: as asked, or with `auto` the one that the configuration names.

    Raises:
        CheckpointError: it is not one of the three.
    """
    dtype = published if asked == "auto" else asked
    if dtype not in DTYPES:
        raise CheckpointError(f"{where}: dtype or torch_dtype is {shown(dtype)}, supported: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _device(name: str, computes_here: bool) -> torch.device:
    # Only where it computes: `serve --address` may run on a host without GPUs.
    if name == "cuda" and computes_here and not torch.cuda.is_available():
        raise CheckpointError("model.device is cuda, but torch sees no GPU here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)

"""The families that can be served, and the way from a checkpoint to its spec and its tensors."""

from dataclasses import dataclass
from types import ModuleType

from experts.checkpoint import Checkpoint
from experts.checkpoint_error import CheckpointError
from router_service.models import mixtral, qwen3_moe
from router_service.models.spec import ConfigReader, ModelSpec, TensorMap

FAMILIES: tuple[ModuleType, ...] = (mixtral, qwen3_moe)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A checkpoint understood and checked, without a byte of its weights read."""

    checkpoint: Checkpoint
    spec: ModelSpec
    tensors: TensorMap


def plan_model(checkpoint: Checkpoint) -> ModelPlan:
    """Recognize the family and compare every tensor's name and shape with what it should hold.

    Raises:
        CheckpointError: unknown family, a bad configuration value, or a tensor missing, too many or of a wrong shape.
    """
    where = str(checkpoint.path / "config.json")
    family = _family(checkpoint, where)
    spec: ModelSpec = family.read_spec(ConfigReader(checkpoint.config, where), where)
    if spec.gate.top_k > spec.gate.experts:
        raise CheckpointError(f"{where}: num_experts_per_tok {spec.gate.top_k} is over the {spec.gate.experts} experts")
    if not spec.moe_layers:
        raise CheckpointError(f"{where}: no layer has experts: a dense model is not for this server")
    tensors: TensorMap = family.tensor_map(spec)
    checkpoint.check(tensors.expected(), _ignorable)
    return ModelPlan(checkpoint, spec, tensors)


def _family(checkpoint: Checkpoint, where: str) -> ModuleType:
    architectures, model_type = checkpoint.config.get("architectures") or [], checkpoint.config.get("model_type")
    for family in FAMILIES:
        if family.ARCHITECTURE in architectures or (not architectures and model_type == family.MODEL_TYPE):
            return family
    known = ", ".join(family.ARCHITECTURE for family in FAMILIES)
    raise CheckpointError(f"{where}: unknown model family {architectures or model_type!r}, supported: {known}")


def _ignorable(name: str) -> bool:
    """Old writers stored rope's frequencies, some store a head beside tied embeddings; both follow from the rest."""
    return name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"

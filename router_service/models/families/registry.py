"""The families that can be served, and the way from a checkpoint to its spec and its tensors."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.source import Stored
from router_service.models.families import deepseek_v3, gpt_oss, llama4, mixtral, olmoe, qwen_moe
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.names import TensorNames, fp8_block
from router_service.models.spec import ModelSpec, TensorMap


@dataclass(frozen=True, slots=True)
class Family:
    """A family's module as data.

    `skipped(spec, name)` says of a tensor what it serves that is not done here, None of any other.
    """

    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    read_spec: Callable[[ConfigReader], ModelSpec]
    tensor_map: Callable[[ModelSpec, TensorNames], TensorMap]
    skipped: Callable[[ModelSpec, str], str | None] = lambda _, __: None


FAMILIES = (
    Family(mixtral.ARCHITECTURES, mixtral.MODEL_TYPES, mixtral.read_spec, mixtral.tensor_map),
    Family(qwen_moe.ARCHITECTURES, qwen_moe.MODEL_TYPES, qwen_moe.read_spec, qwen_moe.tensor_map),
    Family(olmoe.ARCHITECTURES, olmoe.MODEL_TYPES, olmoe.read_spec, olmoe.tensor_map),
    Family(
        deepseek_v3.ARCHITECTURES,
        deepseek_v3.MODEL_TYPES,
        deepseek_v3.read_spec,
        deepseek_v3.tensor_map,
        deepseek_v3.skipped,
    ),
    Family(llama4.ARCHITECTURES, llama4.MODEL_TYPES, llama4.read_spec, llama4.tensor_map, llama4.skipped),
    Family(gpt_oss.ARCHITECTURES, gpt_oss.MODEL_TYPES, gpt_oss.read_spec, gpt_oss.tensor_map),
)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A checkpoint understood, without a byte of its weights read. `notices` are lines that say what is not used."""

    checkpoint: Checkpoint
    spec: ModelSpec
    tensors: TensorMap
    notices: tuple[str, ...] = ()


def plan_model(checkpoint: Checkpoint, verify: bool = True) -> ModelPlan:
    """Recognize the family and compare every tensor's name and shape with what it should hold.

    Without `verify` only the configuration and the index are read; whoever loads a tensor checks that one.

    Raises:
        CheckpointError: unknown family, a bad configuration value, or a tensor missing, too many or of a wrong shape.
    """
    where = str(checkpoint.path / "config.json")
    family = family_of(checkpoint.config, where)
    there = TensorNames(checkpoint.names, fp8_block(checkpoint.config, where))
    spec, tensors = read_model(checkpoint.config, where, there)
    if not verify:
        return ModelPlan(checkpoint, spec, tensors)
    unused: Counter[str] = Counter()

    def ignorable(name: str) -> bool:
        reason = family.skipped(spec, name)
        if reason is not None:
            unused[reason] += 1
        return reason is not None or _follows_from_others(name)

    checkpoint.check(_stored(tensors), ignorable)
    return ModelPlan(checkpoint, spec, tensors, tuple(_notices(checkpoint, unused)))


def read_model(config: Mapping[str, Any], where: str, there: TensorNames) -> tuple[ModelSpec, TensorMap]:
    """Understand a configuration, for tensors of which it is asked which are there.

    Raises:
        CheckpointError: unknown family, or a bad configuration value.
    """
    family = family_of(config, where)
    spec = family.read_spec(ConfigReader(text_part(config), where))
    if spec.gate.top_k > spec.gate.experts:
        raise CheckpointError(f"{where}: num_experts_per_tok {spec.gate.top_k} is over the {spec.gate.experts} experts")
    if not spec.moe_layers:
        raise CheckpointError(f"{where}: no layer has experts: a dense model is not for this server")
    return spec, family.tensor_map(spec, there)


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """Return the family that a configuration names.

    Raises:
        CheckpointError: none that we know.
    """
    architectures, model_type = config.get("architectures") or [], config.get("model_type")
    for family in FAMILIES:
        named = any(name in architectures for name in family.architectures)
        if named or (not architectures and model_type in family.model_types):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise CheckpointError(f"{where}: unknown model family {architectures or model_type!r}, supported: {known}")


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the text model: a multimodal one keeps it in a section of its own, which wins."""
    nested = config.get("text_config")
    if not isinstance(nested, dict):
        return dict(config)
    return dict(config) | {key: value for key, value in nested.items() if value is not None}


def _stored(tensors: TensorMap) -> Iterator[Stored]:
    for source in tensors.router.values():
        yield from source.stored()
    yield from tensors.experts.stored()


def _follows_from_others(name: str) -> bool:
    """Old writers stored rope's frequencies, some store a head beside tied embeddings."""
    return name.endswith(("rotary_emb.inv_freq", "lm_head.weight"))


def _notices(checkpoint: Checkpoint, unused: Mapping[str, int]) -> Iterator[str]:
    for reason, count in unused.items():
        yield f"{checkpoint.path}: {count} tensors of {reason} are not used and not loaded"
    if checkpoint.strays:
        names = ", ".join(checkpoint.strays[:3]) + (", ..." if len(checkpoint.strays) > 3 else "")
        yield f"{checkpoint.path}: {len(checkpoint.strays)} weights files are not in the index and not read: {names}"

"""The supported families, and planning: from a checkpoint to its spec and its tensors."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_reader import JsonReader
from experts.checkpoint.stored import Stored
from experts.host.shown import shown
from router_service.models.families import deepseek_v3, gpt_oss, llama4, mixtral, olmoe, qwen_moe
from router_service.models.families.config_reader import ConfigReader
from router_service.models.families.names import TensorNames
from router_service.models.families.quantization.quantization import Quantization
from router_service.models.families.quantization.read import read_quantization
from router_service.models.spec import ModelSpec, TensorMap


@dataclass(frozen=True, slots=True)
class Family:
    """A family's module as data.

    `skipped(spec, name)` returns what an unused tensor is for (a feature that is not implemented), None for others.
    """

    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    read_spec: Callable[[ConfigReader], ModelSpec]
    tensor_map: Callable[[ModelSpec, TensorNames], TensorMap]
    skipped: Callable[[ModelSpec, str], str | None] = lambda _, __: None


FAMILIES = (
    Family(
        architectures=mixtral.ARCHITECTURES,
        model_types=mixtral.MODEL_TYPES,
        read_spec=mixtral.read_spec,
        tensor_map=mixtral.tensor_map,
    ),
    Family(
        architectures=qwen_moe.ARCHITECTURES,
        model_types=qwen_moe.MODEL_TYPES,
        read_spec=qwen_moe.read_spec,
        tensor_map=qwen_moe.tensor_map,
    ),
    Family(
        architectures=olmoe.ARCHITECTURES,
        model_types=olmoe.MODEL_TYPES,
        read_spec=olmoe.read_spec,
        tensor_map=olmoe.tensor_map,
    ),
    Family(
        architectures=deepseek_v3.ARCHITECTURES,
        model_types=deepseek_v3.MODEL_TYPES,
        read_spec=deepseek_v3.read_spec,
        tensor_map=deepseek_v3.tensor_map,
        skipped=deepseek_v3.skipped,
    ),
    Family(
        architectures=llama4.ARCHITECTURES,
        model_types=llama4.MODEL_TYPES,
        read_spec=llama4.read_spec,
        tensor_map=llama4.tensor_map,
        skipped=llama4.skipped,
    ),
    Family(
        architectures=gpt_oss.ARCHITECTURES,
        model_types=gpt_oss.MODEL_TYPES,
        read_spec=gpt_oss.read_spec,
        tensor_map=gpt_oss.tensor_map,
    ),
)
# The keys that determine which layers have experts, in any family.
SPARSITY_KEYS = (
    "num_hidden_layers",
    "first_k_dense_replace",
    "mlp_only_layers",
    "decoder_sparse_step",
    "moe_layers",
    "interleave_moe_layer_step",
)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A planned checkpoint, without any weights read. `notices` are lines that say what is not used."""

    checkpoint: Checkpoint
    spec: ModelSpec
    tensors: TensorMap
    notices: tuple[str, ...] = ()


def plan_model(checkpoint: Checkpoint, verify: bool = True) -> ModelPlan:
    """Recognize the family, and check the name and shape of every tensor.

    Without `verify` only the configuration and the index are read; each tensor is checked when it is loaded.

    Raises:
        CheckpointError: unknown family, a bad configuration value, or a missing, unexpected or wrongly shaped tensor.
    """
    where = str(checkpoint.path / "config.json")
    family, quantization = family_of(checkpoint.config, where), quantization_of(checkpoint)
    spec, tensors = read_model(checkpoint.config, where, TensorNames(checkpoint.names, quantization))
    if not verify:
        return ModelPlan(checkpoint=checkpoint, spec=spec, tensors=tensors)
    unused: Counter[str] = Counter()

    def ignorable(name: str) -> bool:
        reason = unused_for(family, quantization, spec, name)
        if reason is not None:
            unused[reason] += 1
        return reason is not None or _follows_from_others(name)

    checkpoint.check(_stored(tensors), ignorable)
    notices = (*(f"{checkpoint.path}: {line}" for line in quantization.notices), *_notices(checkpoint, unused))
    return ModelPlan(checkpoint=checkpoint, spec=spec, tensors=tensors, notices=notices)


def quantization_of(checkpoint: Checkpoint) -> Quantization:
    """Read what the checkpoint says of the formats of its weights.

    Raises:
        CheckpointError: see `read_quantization`.
    """
    return read_quantization(checkpoint.config, str(checkpoint.path / "config.json"), checkpoint.quantization)


def unused_for(family: Family, quantization: Quantization, spec: ModelSpec, name: str) -> str | None:
    """What a tensor is for that is not used, None for others."""
    return family.skipped(spec, name) or quantization.unused_for(name)


def read_model(config: Mapping[str, Any], where: str, names: TensorNames) -> tuple[ModelSpec, TensorMap]:
    """Read a configuration; `names` says which tensors the checkpoint has.

    Raises:
        CheckpointError: unknown family, or a bad configuration value.
    """
    family = family_of(config, where)
    text = text_part(config, where)
    spec = family.read_spec(text)
    if not spec.moe_layers:
        keys = ", ".join(text.name(key) for key in SPARSITY_KEYS if text.get(key) is not None)
        raise CheckpointError(f"{where}: no layer has experts, by {keys}: a dense model is not for this server")
    return spec, family.tensor_map(spec, names)


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """Return the family that a configuration names.

    Raises:
        CheckpointError: the family is not known.
    """
    reader = JsonReader(config, where)
    architectures, model_type = reader.strings("architectures"), reader.text("model_type", default=None)
    for family in FAMILIES:
        named = any(name in architectures for name in family.architectures)
        if named or (not architectures and model_type in family.model_types):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    named_by = f"{shown(architectures)} (architectures)" if architectures else f"{shown(model_type)} (model_type)"
    raise CheckpointError(f"{where}: unknown model family {named_by}, supported: {known}")


def text_part(config: Mapping[str, Any], where: str) -> ConfigReader:
    """Return the configuration of the text model. A multimodal one has it in a section, whose keys take precedence.

    Raises:
        CheckpointError: the section is not an object.
    """
    section = JsonReader(config, where).object("text_config").values
    # A null in the section must not hide a value outside of it.
    inner = {key: value for key, value in section.items() if value is not None}
    return ConfigReader(dict(config) | inner, where, inner)


def _stored(tensors: TensorMap) -> Iterator[Stored]:
    for source in tensors.router.values():
        yield from source.stored()
    yield from tensors.experts.stored()


def _follows_from_others(name: str) -> bool:
    """Old checkpoints store rope's frequencies, and some store a head despite tied embeddings."""
    return name.endswith(("rotary_emb.inv_freq", "lm_head.weight"))


def _notices(checkpoint: Checkpoint, unused: Mapping[str, int]) -> Iterator[str]:
    for reason, count in unused.items():
        yield f"{checkpoint.path}: {count} tensors of {reason} are not used and not loaded"
    if checkpoint.strays:
        names = ", ".join(checkpoint.strays[:3]) + (", ..." if len(checkpoint.strays) > 3 else "")
        yield f"{checkpoint.path}: {len(checkpoint.strays)} weights files are not in the index and not read: {names}"

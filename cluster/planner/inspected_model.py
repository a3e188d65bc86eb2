"""What `expertmesh inspect` looks at: a checkpoint's headers, or the configuration alone of a published model."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cluster.planner.published_models import published_config
from cluster.planner.sizes import Holdings, published_dtype, stored_bytes
from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.stored import Stored
from experts.host.user_path import user_path
from router_service.models.families import llama4
from router_service.models.families.names import PublishedNames
from router_service.models.families.quantization.read import read_quantization
from router_service.models.families.registry import (
    family_of,
    plan_model,
    quantization_of,
    read_model,
    text_part,
    unused_for,
)
from router_service.models.spec import ModelSpec, TensorMap


@dataclass(frozen=True, slots=True)
class Skipped:
    """Tensors that are not loaded, and why. `tensors`, `parameters` and `bytes` are 0 where they are not known."""

    reason: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedModel:
    """A model understood without its weights. `published` says that only the configuration is known.

    `where` is the file that errors name, `stored` the bytes as published, `notices` the plan's lines.
    """

    name: str
    where: str
    published: bool
    spec: ModelSpec
    tensors: TensorMap
    stored: Holdings
    skipped: tuple[Skipped, ...] = ()
    notices: tuple[str, ...] = ()


def open_inspected_model(model: str) -> InspectedModel:
    """Look at a directory, or at a published model where no directory has that name.

    Raises:
        CheckpointError: neither; see also `plan_model`.
        ValueError: it can be no path.
    """
    path = user_path(model, "MODEL_OR_DIRECTORY")
    named = len(Path(model).parts) > 1
    return _directory(path) if named or os.path.isdir(path) else _published(model)


def _published(name: str) -> InspectedModel:
    config, where = published_config(name)
    spec, tensors = read_model(config, where, PublishedNames(read_quantization(config, where)))
    stored = stored_bytes(tensors, lambda tensor: published_dtype(spec, tensor))
    skipped = []
    if parameters := llama4.skipped_elements(config):
        skipped.append(Skipped("vision", 0, parameters, 2 * parameters))  # published in bfloat16
    if predicted := text_part(config, where).integer("num_nextn_predict_layers", default=0):
        skipped.append(Skipped(f"multi-token prediction (layers by the configuration: {predicted})", 0, 0, 0))
    return InspectedModel(
        name=name,
        where=where,
        published=True,
        spec=spec,
        tensors=tensors,
        stored=stored,
        skipped=tuple(skipped),
    )


def _directory(path: Path) -> InspectedModel:
    plan = plan_model(Checkpoint(path))

    def dtype_of(tensor: Stored) -> str:
        entry = plan.checkpoint.entry(tensor.name)
        assert entry is not None, "planning has looked for every tensor"
        return entry.dtype

    return InspectedModel(
        name=path.name,
        where=str(path / "config.json"),
        published=False,
        spec=plan.spec,
        tensors=plan.tensors,
        stored=stored_bytes(plan.tensors, dtype_of),
        skipped=tuple(_skipped(plan.checkpoint, plan.spec)),
        notices=plan.notices,
    )


def _skipped(checkpoint: Checkpoint, spec: ModelSpec) -> list[Skipped]:
    """Count what is not used."""
    family = family_of(checkpoint.config, str(checkpoint.path / "config.json"))
    quantization = quantization_of(checkpoint)
    tensors, size = Counter[str](), Counter[str]()
    for entry in checkpoint.entries():
        if (reason := unused_for(family, quantization, spec, entry.name)) is not None:
            tensors[reason] += 1
            size[reason] += entry.end - entry.begin
    return [Skipped(reason, count, 0, size[reason]) for reason, count in tensors.items()]

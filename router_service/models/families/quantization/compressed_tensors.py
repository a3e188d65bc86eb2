"""`quant_method: compressed-tensors`, as llm-compressor writes it: groups of modules, each with a format of its own.

Weights are read as published. What the configuration says of activations and of the KV cache is for engines that keep
them in few bits; here both have the model's dtype.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.module_patterns import module_of, read_patterns
from router_service.models.families.quantization.quantization import Quantization, always
from router_service.models.families.quantization.weight_schemes import FORMATS

# Targets may be classes instead of names; every matrix of ours is of this one.
LINEAR = "Linear"
ACTIVATIONS = "quantization_config.config_groups.*.input_activations is not applied: only weights are quantized here"
CACHE = "quantization_config.kv_cache_scheme is not applied: the KV cache has the model's dtype"


@dataclass(frozen=True, slots=True)
class _Group:
    encoding: Encoding
    linear: bool
    named: Callable[[str], bool]


def read_compressed_tensors(written: JsonReader) -> Quantization:
    """Read the groups, and the modules that are in none.

    Raises:
        CheckpointError: a format that is not supported, or a value that is missing or bad.
    """
    written.must_be("quantization_status", ["compressed", "frozen"])
    _refuse_transformed(written)
    groups = tuple(_groups(written))
    if not groups:
        raise written.error("config_groups", written.get("config_groups"), "a group must have weights")
    ignored = read_patterns(written, "ignore")
    encodings = always(groups[0].encoding) if len(groups) == 1 else lambda name: _chosen(groups, module_of(name))
    return Quantization(encodings, lambda name: ignored(module_of(name)), notices=tuple(_notices(written)))


def _refuse_transformed(written: JsonReader) -> None:
    """Pruned weights are stored in another way, rotated ones need rotated inputs."""
    written.object("sparsity_config").must_be("format", ["dense"])
    rotations = written.object("transform_config")
    if rotations.values:
        raise written.error("transform_config", rotations.values, "transforms are not supported: remove them first")


def _groups(written: JsonReader) -> Iterator[_Group]:
    groups = written.object("config_groups")
    for name in groups.values:
        group = groups.object(name)
        weights = group.object("weights")
        if weights.values:  # others quantize activations only
            linear = LINEAR in group.strings("targets")
            yield _Group(_encoding(written, group, weights), linear, read_patterns(group, "targets"))


def _encoding(written: JsonReader, group: JsonReader, weights: JsonReader) -> Encoding:
    """A group's own format comes before that of all groups."""
    said = group if group.get("format") is not None else written
    form = said.text("format", default=None)
    if form not in FORMATS:
        raise said.error("format", form, f"supported: {', '.join(map(repr, FORMATS))}")
    return FORMATS[form](weights)


def _chosen(groups: tuple[_Group, ...], module: str) -> tuple[Encoding, ...]:
    """A group that names a module comes before one that names its class."""
    named = tuple(group.encoding for group in groups if group.named(module))
    return named or tuple(group.encoding for group in groups if group.linear)


def _notices(written: JsonReader) -> Iterator[str]:
    groups = written.object("config_groups")
    if any(groups.object(name).object("input_activations").values for name in groups.values):
        yield ACTIVATIONS
    if written.object("kv_cache_scheme").values:
        yield CACHE

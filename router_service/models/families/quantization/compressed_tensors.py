"""`quant_method: compressed-tensors`, as llm-compressor writes it: groups of modules, each with a format of its own.

Weights are read as published; what the configuration says of activations is for engines that compute in few bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experts.checkpoint.encodings.block_fp8 import BlockFp8Encoding
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.fp8 import read_block
from router_service.models.families.quantization.module_patterns import module_of, read_patterns
from router_service.models.families.quantization.pack_quantized import read_pack_quantized
from router_service.models.families.quantization.quantization import Quantization, always

# Targets may be classes instead of names; every matrix of ours is of this one.
LINEAR = "Linear"
UNUSED = {
    ".input_scale": "activation scales",
    ".input_zero_point": "activation scales",
    ".input_global_scale": "activation scales",
    ".k_scale": "key-value cache scales",
    ".v_scale": "key-value cache scales",
}


@dataclass(frozen=True, slots=True)
class _Group:
    encoding: Encoding
    linear: bool
    named: Callable[[str], bool]


def read_float(weights: JsonReader) -> Encoding:
    """Read a group's `weights` in FP8.

    Raises:
        CheckpointError: a value that the format does not have.
    """
    weights.must_be("num_bits", [8])
    weights.must_be("type", ["float"])
    weights.must_be("strategy", ["block"])
    return BlockFp8Encoding(read_block(weights, "block_structure"), "_scale")


# What reads a group's `weights`, by its format.
FORMATS: dict[str, Callable[[JsonReader], Encoding]] = {
    "float-quantized": read_float,
    "pack-quantized": read_pack_quantized,
}


def read_compressed_tensors(written: JsonReader) -> Quantization:
    """Read the groups, and the modules that are in none.

    Raises:
        CheckpointError: a format that is not supported, or a value that is missing or bad.
    """
    written.must_be("quantization_status", ["compressed", "frozen"])
    groups = tuple(_groups(written))
    ignored = read_patterns(written, "ignore")
    encodings = always(groups[0].encoding) if len(groups) == 1 else lambda name: _chosen(groups, module_of(name))
    return Quantization(encodings, lambda name: ignored(module_of(name)), UNUSED)


def _groups(written: JsonReader) -> Iterator[_Group]:
    groups = written.object("config_groups")
    if not groups.values:
        raise written.error("config_groups", groups.values, "it must have a group")
    for name in groups.values:
        group = groups.object(name)
        weights, key = group.object("weights"), "format"
        form = (group if group.get(key) is not None else written).text(key, default=None)
        if form not in FORMATS:
            raise written.error(key, form, f"supported: {', '.join(map(repr, FORMATS))}")
        linear = LINEAR in group.strings("targets")
        yield _Group(FORMATS[form](weights), linear, read_patterns(group, "targets"))


def _chosen(groups: tuple[_Group, ...], module: str) -> tuple[Encoding, ...]:
    """A group that names a module comes before one that names its class."""
    named = tuple(group.encoding for group in groups if group.named(module))
    return named or tuple(group.encoding for group in groups if group.linear)

"""From a configuration to the formats of its matrices: one reader for each `quant_method`."""

from collections.abc import Callable, Mapping
from typing import Any

from experts.checkpoint.encodings.block_fp8 import BlockFp8Encoding
from experts.checkpoint.encodings.mxfp4 import Mxfp4Encoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.awq import read_awq
from router_service.models.families.quantization.compressed_tensors import read_compressed_tensors
from router_service.models.families.quantization.fp8 import read_fp8
from router_service.models.families.quantization.gptq import read_gptq
from router_service.models.families.quantization.modelopt import read_modelopt
from router_service.models.families.quantization.quantization import Quantization, always

# A checkpoint that says nothing may still hold DeepSeek's blocks.
UNSAID = Quantization(always(BlockFp8Encoding()), plain=lambda _: True)


def _read_mxfp4(_: JsonReader) -> Quantization:
    return Quantization(always(Mxfp4Encoding()), plain=lambda name: ".experts." not in name)


METHODS: dict[str, Callable[[JsonReader], Quantization]] = {
    "fp8": read_fp8,
    "compressed-tensors": read_compressed_tensors,
    "gptq": read_gptq,
    "awq": read_awq,
    "modelopt": read_modelopt,
    "mxfp4": _read_mxfp4,
}


def read_quantization(config: Mapping[str, Any], where: str, beside: JsonReader | None = None) -> Quantization:
    """Read `quantization_config`, which a multimodal model may have in its section of the text model.

    Where there is none, `beside` is used: what older versions of ModelOpt write into a file of its own.

    Raises:
        CheckpointError: a method that is not supported, or a value that is missing or bad.
    """
    whole = JsonReader(config, where)
    written = whole.object("quantization_config")
    if not written.values:
        written = whole.object("text_config").object("quantization_config")
    if beside is not None and beside.values and not written.values:
        return read_modelopt(beside.object("quantization"))
    method = written.text("quant_method", default=None)
    if method is None:
        return UNSAID
    if method not in METHODS:
        raise written.error("quant_method", method, f"supported: {', '.join(map(repr, METHODS))}")
    return METHODS[method](written)

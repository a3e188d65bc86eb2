"""`quant_method: modelopt`, NVIDIA Model Optimizer: one algorithm, in config.json or in hf_quant_config.json beside it.

Source: https://docs.vllm.ai/en/latest/features/quantization/modelopt.html for the algorithms' names, and the
library's `export/convert_hf_config.py` for the two spellings.
"""

from collections.abc import Iterator

from experts.checkpoint.encodings import nvfp4
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.scaled import ScaledEncoding
from experts.checkpoint.json_reader import JsonReader
from kernels.formats.nvfp4 import GROUP
from kernels.formats.scaled import ScaledFp8
from router_service.models.families.quantization.module_patterns import module_of, read_patterns
from router_service.models.families.quantization.quantization import Quantization, always

ALGORITHMS: dict[str, Encoding] = {
    "FP8": ScaledEncoding(ScaledFp8, per_tensor=True),
    "FP8_PER_CHANNEL_PER_TOKEN": ScaledEncoding(ScaledFp8, per_tensor=False),
    "NVFP4": nvfp4.MODELOPT,
    "W4A16_NVFP4": nvfp4.MODELOPT,
}


MIXED = "MIXED_PRECISION"


def read_modelopt(said: JsonReader) -> Quantization:
    """Read the algorithm, and the modules that it leaves out, in either file's spelling.

    Raises:
        CheckpointError: an algorithm that is not supported, or a value that is missing or bad.
    """
    if said.text("quant_algo", default="").upper() == MIXED:
        return _mixed(said)
    encoding, ignored = _encoding(said, MIXED), read_patterns(said, "ignore", "exclude_modules")
    return Quantization(always(encoding), lambda name: ignored(module_of(name)), notices=tuple(_notices(said)))


def _mixed(said: JsonReader) -> Quantization:
    """Each module has an algorithm of its own; those that are not listed are plain."""
    layers = said.object("quantized_layers")
    by_module = {name: _encoding(layers.object(name)) for name in layers.values}
    if not by_module:
        raise said.error("quantized_layers", layers.values, f"{MIXED} needs the modules and their algorithms")
    # NVFP4 has the scales that mark FP8 too, so it is looked for first.
    found = sorted(dict.fromkeys(by_module.values()), key=lambda encoding: encoding != nvfp4.MODELOPT)
    return Quantization(always(*found), lambda name: module_of(name) not in by_module, notices=tuple(_notices(said)))


def _encoding(said: JsonReader, *others: str) -> Encoding:
    algorithm = said.text("quant_algo", default=None)
    if algorithm is None or algorithm.upper() not in ALGORITHMS:
        raise said.error("quant_algo", algorithm, f"supported: {', '.join(map(repr, (*ALGORITHMS, *others)))}")
    encoding = ALGORITHMS[algorithm.upper()]
    if encoding is nvfp4.MODELOPT:
        said.must_be("group_size", [GROUP])
    return encoding


def _notices(said: JsonReader) -> Iterator[str]:
    algorithm = said.text("quant_algo", default="").upper()
    if not algorithm.startswith("W4A16"):
        yield f"{said.name('quant_algo')} {algorithm} is applied to weights only: activations are not quantized"
    for key in ("kv_cache_scheme", "kv_cache_quant_algo"):
        if said.get(key):
            yield f"{said.name(key)} is not applied: the KV cache has the model's dtype"

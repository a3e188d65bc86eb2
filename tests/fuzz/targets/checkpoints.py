"""Files of a checkpoint: configurations of all families, and headers of safetensors files."""

import atexit
import json
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_file import read_json
from experts.checkpoint.json_reader import JsonReader
from experts.checkpoint.safetensors_file import DTYPES, read_header
from router_service.models.families.names import TensorNames
from router_service.models.families.quantization.read import read_quantization
from router_service.models.families.registry import read_model
from tests.fuzz.nested import JSON
from tests.fuzz.target import Target

MODELS = Path(__file__).parents[3] / "deploy" / "models"


def read_config(data: bytes) -> None:
    """As planning does, without any weights."""
    config = read_json(_written("config.json", data))
    quantization = read_quantization(config, "config.json", JsonReader({}, "hf_quant_config.json"))
    spec, _ = read_model(config, "config.json", TensorNames(frozenset(), quantization))
    assert spec.moe_layers
    assert 0 < spec.gate.top_k <= spec.gate.experts


def read_tensors(data: bytes) -> None:
    """An accepted tensor lies within the file and has the bytes that its shape needs."""
    for entry in read_header(_written("model.safetensors", data)).values():
        assert 8 <= entry.begin <= entry.end <= len(data)
        assert all(size >= 0 for size in entry.shape) or entry.dtype not in DTYPES


def header_mutation(random: Random, data: bytes) -> bytes:
    """A change of the header's values, with a length that fits."""
    length = int.from_bytes(data[:8], "little")
    header = JSON(random, data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _written(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


@cache
def _folder() -> Path:
    # In memory, where there is such a place: a million files are written.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _safetensors(tensors: dict[str, object], size: int) -> bytes:
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def _files() -> tuple[bytes, ...]:
    two = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    return _safetensors(two, 32), _safetensors({"c": {"dtype": "F4", "shape": [], "data_offsets": [0, 0]}}, 0)


CONFIGS = tuple(path.read_bytes() for path in sorted(MODELS.glob("*.json")))
TARGETS = (
    Target("config", CONFIGS, read_config, (CheckpointError,), 2, (JSON,)),
    Target("safetensors", _files(), read_tensors, (CheckpointError,), 2, (header_mutation,)),
)

"""A hash of what a deployment computes. Peers that differ in it must not work together: results would be wrong."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.safetensors_file import TensorEntry


def deployment_digest(checkpoint: Checkpoint, dtype: torch.dtype, resident: str) -> bytes:
    """SHA-256 of the configuration, the tensors' headers, the sizes of their files, and how all is served.

    Reads no weights. Who holds which expert is no part of it: that may change while a deployment serves, and a shard
    refuses what it does not hold.

    Args:
        dtype: what is computed in.
        resident: the form of the weights, packed or dequantized, and what floats are rounded to.

    Raises:
        CheckpointError: see `Checkpoint.entries`; also a file that has gone since.
    """
    entries = list(checkpoint.entries())
    served = {
        "config": checkpoint.config,
        "quantization": checkpoint.quantization.values,
        "tensors": sorted(_described(entry, checkpoint.path) for entry in entries),
        "files": _sizes((entry.file for entry in entries), checkpoint.path),
        "dtype": str(dtype).removeprefix("torch."),
        "resident": resident,
    }
    return hashlib.sha256(_canonical(served)).digest()


def _canonical(value: dict[str, Any]) -> bytes:
    """JSON that does not depend on the order of keys, nor on spaces and escapes in the file it came from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _described(entry: TensorEntry, path: Path) -> tuple[str, str, str, tuple[int, ...], int, int]:
    return entry.name, _named(entry.file, path), entry.dtype, entry.shape, entry.begin, entry.end


def _sizes(files: Iterable[Path], path: Path) -> dict[str, int]:
    try:
        return {_named(file, path): file.stat().st_size for file in set(files)}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _named(file: Path, path: Path) -> str:
    """A path relative to the checkpoint: nodes may have it in different places."""
    return file.relative_to(path).as_posix()

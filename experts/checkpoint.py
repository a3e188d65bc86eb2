"""A Hugging Face checkpoint directory: its configuration and where each tensor lies. Opening reads headers only."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from experts.checkpoint_error import CheckpointError
from experts.safetensors_file import DTYPES, MappedFile, TensorEntry, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Copy:
    """One tensor to be read: the tensor called `name` goes into `out`, whose shape it must have."""

    name: str
    out: Tensor


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: no such file, not JSON, or not an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a {type(value).__name__}, not a JSON object")
    return value


class Checkpoint:
    """The directory `path`: `config` (config.json) and `entries` (tensor name to place)."""

    def __init__(self, path: Path) -> None:
        """Open a checkpoint.

        Raises:
            CheckpointError: no directory, no config.json, no weights, or a file that is not what it should be.
        """
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such checkpoint directory")
        self.path = path
        self.config = read_json(path / "config.json")
        self.entries = _read_entries(path)

    def check(self, expected: Mapping[str, tuple[int, ...]], ignorable: Callable[[str], bool]) -> None:
        """Compare the tensors with what the model family expects, by name, shape and dtype.

        `ignorable` tells of a tensor that is not expected whether it may be there all the same.

        Raises:
            CheckpointError: the first tensor that is missing, too many, of a wrong shape or dtype.
        """
        for name, shape in expected.items():
            self._check_one(name, shape)
        for name, entry in self.entries.items():
            if name not in expected and not ignorable(name):
                raise CheckpointError(f"{entry.file}: unexpected tensor {name}: the model family has none of this name")

    def _check_one(self, name: str, shape: tuple[int, ...]) -> None:
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: missing tensor {name} (shape {list(shape)}): no weights file holds it")
        if entry.shape != shape:
            raise CheckpointError(
                f"{entry.file}: tensor {name} has shape {list(entry.shape)}, config.json implies {list(shape)}"
            )
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{entry.file}: tensor {name} has dtype {entry.dtype}, supported: {', '.join(DTYPES)}"
            )

    def load(self, copies: Iterable[Copy], progress: Callable[[int], None] = lambda _: None) -> None:
        """Carry out `copies` in the order of the files, `progress` called with the bytes of each."""
        ordered = sorted(((self.entries[copy.name], copy.out) for copy in copies), key=_place)
        for file, group in groupby(ordered, key=lambda pair: pair[0].file):
            with MappedFile(file) as mapped:
                for entry, out in group:
                    mapped.copy_into(entry, out)
                    progress(out.nbytes)


def _place(pair: tuple[TensorEntry, Tensor]) -> tuple[str, int]:
    return str(pair[0].file), pair[0].begin


def _read_entries(path: Path) -> dict[str, TensorEntry]:
    if (path / INDEX).exists():
        return _read_indexed(path)
    if not (path / SINGLE).exists():
        raise CheckpointError(f"{path}: neither {SINGLE} nor {INDEX}: no safetensors weights")
    return read_header(path / SINGLE)


def _read_indexed(path: Path) -> dict[str, TensorEntry]:
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path / INDEX}: has no object 'weight_map' from tensors to file names")
    headers = {name: read_header(_inside(path, name)) for name in sorted(set(weight_map.values()))}
    for tensor, name in weight_map.items():
        if tensor not in headers[name]:
            raise CheckpointError(f"{path / name}: missing tensor {tensor}, which {INDEX} places there")
    found = {tensor: entry for header in headers.values() for tensor, entry in header.items()}
    return found | {tensor: headers[name][tensor] for tensor, name in weight_map.items()}


def _inside(path: Path, name: str) -> Path:
    file = path / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CheckpointError(f"{path / INDEX}: the weights file {name!r} lies outside the checkpoint directory")
    return file

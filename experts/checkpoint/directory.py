"""A Hugging Face checkpoint directory: its configuration and where each tensor lies.

Opening reads config.json and the index. A file's header is read when a tensor of it is first asked for, so that a shard
opens only the files that hold its experts.
"""

from collections.abc import Callable, Iterable, Iterator, KeysView
from dataclasses import dataclass
from itertools import groupby
from os.path import isdir, isfile, lexists
from pathlib import Path

from torch import Tensor

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_file import read_json
from experts.checkpoint.json_reader import open_json
from experts.checkpoint.safetensors_file import MappedFile, TensorEntry, read_header
from experts.checkpoint.stored import Stored

INDEX = "model.safetensors.index.json"
# Where older versions of NVIDIA's Model Optimizer say how they quantized; newer ones say so in config.json too.
QUANTIZATION = "hf_quant_config.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Copy:
    """One tensor to be read, or its entry `index`, into `out`: a view in the order of the stored elements."""

    name: str
    out: Tensor
    index: int | None = None


class Checkpoint:
    """The directory `path`: `config` (config.json), the `names` of its tensors, and where each lies.

    `quantization` is what hf_quant_config.json holds, empty where there is none.
    """

    def __init__(self, path: Path) -> None:
        """Open a checkpoint.

        Raises:
            CheckpointError: no directory, no config.json, no weights, or an index that names a file that is not there.
        """
        if not isdir(path):  # unlike Path.is_dir it says no to names that are too long
            raise CheckpointError(f"{path}: no such checkpoint directory")
        if not lexists(path / "config.json"):
            raise CheckpointError(f"{path}: no config.json: not a Hugging Face checkpoint directory")
        self.path = path
        self.config = read_json(path / "config.json")
        self.quantization = open_json(path / QUANTIZATION, optional=True)
        self._headers: dict[Path, dict[str, TensorEntry]] = {}  # read on demand: a shard needs those of few files
        self._file_of = self._places()

    @property
    def names(self) -> KeysView[str]:
        """The tensors that the index lists, or that the only file holds."""
        return self._file_of.keys()

    @property
    def strays(self) -> list[str]:
        """Weights files of the directory that the index does not name, and that are not read."""
        used = {file.name for file in self._file_of.values()}
        return sorted(file.name for file in self.path.glob("*.safetensors") if used and file.name not in used)

    def entry(self, name: str) -> TensorEntry | None:
        """Where a tensor lies, None where no file holds it. One that is not in the index is looked for in all files.

        Raises:
            CheckpointError: a file is not a safetensors file, or the index is wrong about this tensor.
        """
        file = self._file_of.get(name)
        if file is None:
            return next((header[name] for header in self._all_headers() if name in header), None)
        found = self._header(file).get(name)
        if found is None:
            raise CheckpointError(f"{file}: missing tensor {name}, which {INDEX} places there")
        return found

    def entries(self) -> Iterator[TensorEntry]:
        """All tensors of all files; of two of one name the index chooses."""
        for header in self._all_headers():
            for name, entry in header.items():
                if self._file_of.get(name, entry.file) == entry.file:
                    yield entry

    def check(self, expected: Iterable[Stored], ignorable: Callable[[str], bool]) -> None:
        """Compare the tensors with what the model family expects, by name, shape and dtype. Reads every header.

        `ignorable` tells by its name whether an unexpected tensor may be present.

        Raises:
            CheckpointError: the first tensor that is missing, too many, of a wrong shape or dtype.
        """
        known = set()
        for stored in expected:
            self.check_one(stored)
            known.add(stored.name)
        for entry in self.entries():
            if entry.name not in known and not ignorable(entry.name):
                raise CheckpointError(
                    f"{entry.file}: unexpected tensor {entry.name}: the model family has none of this name"
                )

    def check_one(self, stored: Stored) -> None:
        """Compare one tensor with what is expected.

        Raises:
            CheckpointError: it is missing, or of a wrong shape or dtype.
        """
        name, shape = stored.name, list(stored.shape)
        entry = self.entry(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: missing tensor {name} (shape {shape}): no weights file holds it")
        if entry.shape not in (stored.shape, *stored.also):
            raise CheckpointError(
                f"{entry.file}: tensor {name} has shape {list(entry.shape)}, config.json implies {shape}"
            )
        if entry.dtype not in stored.dtypes:
            raise CheckpointError(
                f"{entry.file}: tensor {name} has dtype {entry.dtype}, supported: {', '.join(stored.dtypes)}"
            )

    def load(
        self,
        copies: Iterable[Copy],
        progress: Callable[[int], None] = lambda _: None,
        before: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Carry out `copies`, calling `progress` with the bytes of each.

        In the order of the files, so that each is mapped once and read forwards. `before` is called with the bytes of
        each piece that is about to be read; what it raises ends the reading.
        """
        ordered = sorted(((self._existing(copy.name), copy) for copy in copies), key=_place)
        for file, group in groupby(ordered, key=lambda pair: pair[0].file):
            with MappedFile(file) as mapped:
                for entry, copy in group:
                    mapped.copy_into(entry, copy.out, copy.index, before)
                    progress(copy.out.nbytes)

    def _existing(self, name: str) -> TensorEntry:
        entry = self.entry(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: missing tensor {name}: no weights file holds it")
        return entry

    def _all_headers(self) -> Iterator[dict[str, TensorEntry]]:
        return (self._header(file) for file in dict.fromkeys(self._file_of.values()))

    def _header(self, file: Path) -> dict[str, TensorEntry]:
        if file not in self._headers:
            self._headers[file] = read_header(file)
        return self._headers[file]

    def _places(self) -> dict[str, Path]:
        if (self.path / INDEX).exists():
            return self._indexed()
        file = self.path / SINGLE
        if not file.exists():
            raise CheckpointError(f"{self.path}: neither {SINGLE} nor {INDEX}: no safetensors weights")
        return dict.fromkeys(self._header(file), file)

    def _indexed(self) -> dict[str, Path]:
        weight_map = read_json(self.path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{self.path / INDEX}: has no object 'weight_map' from tensors to file names")
        files = {name: _inside(self.path, name) for name in sorted(set(weight_map.values()))}
        for file in files.values():
            if not isfile(file):  # unlike Path.is_file, false and no error for a name that no file can have
                raise CheckpointError(f"{file}: no such file, but {INDEX} places tensors there")
        return {tensor: files[name] for tensor, name in weight_map.items()}


def _place(pair: tuple[TensorEntry, Copy]) -> tuple[str, int, int]:
    return str(pair[0].file), pair[0].begin, pair[1].index or 0


def _inside(path: Path, name: str) -> Path:
    # An index is untrusted: it must not make us read files elsewhere.
    file = path / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise CheckpointError(f"{path / INDEX}: the weights file {name!r} lies outside the checkpoint directory")
    return file

"""Headers of safetensors files, and tensors copied out of them through a memory map that keeps no page behind.

The format (https://github.com/huggingface/safetensors): 8 bytes with the header's length, a JSON header, the data. The
library of that name maps a whole file and leaves every page it touched resident until the last tensor of the file is
gone; a shard that fuses gate and up would hold its weights twice. Here pages are given back after each piece.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import check_fetched, open_file
from experts.host.unique_keys import unique_keys

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
# About the limit of the safetensors library: a length from an untrusted file must not decide what is allocated.
MAX_HEADER_BYTES = 100 << 20
# Of mapped pages resident at a time.
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: `begin` and `end` are byte offsets in `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Return the tensors of one file by name; reads the header only.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file.
    """
    try:
        with open_file(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            check_fetched(file, stream.peek(), "the weights")
            length = _header_length(file, stream.read(8), size)
            header = json.loads(stream.read(length), object_pairs_hook=unique_keys)
        return {name: _entry(file, name, info, 8 + length, size) for name, info in _tensors(header)}
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: not a safetensors file: {error}") from error


def _header_length(file: Path, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise CheckpointError(f"{file}: truncated: {size} bytes hold no safetensors header")
    length: int = struct.unpack("<Q", prefix)[0]
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{file}: truncated or not safetensors: header of {length} bytes in a file of {size}")
    return length


def _tensors(header: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, info) for name, info in header.items() if name != "__metadata__"]


def _entry(file: Path, name: str, info: dict[str, Any], data_start: int, size: int) -> TensorEntry:
    begin, end = (data_start + int(offset) for offset in info["data_offsets"])
    if end > size:
        raise CheckpointError(f"{file}: truncated: tensor {name} ends at byte {end}, the file at {size}")
    if not data_start <= begin <= end:
        raise CheckpointError(f"{file}: tensor {name} lies at bytes {begin} to {end}, the data begin at {data_start}")
    shape = tuple(int(n) for n in info["shape"])
    entry = TensorEntry(name, file, str(info["dtype"]), shape, begin, end)
    # Of other dtypes the size of an element is not known; they are refused when such a tensor is wanted.
    if entry.dtype in DTYPES and end - begin != _nbytes(entry):
        raise CheckpointError(
            f"{file}: tensor {name} has {end - begin} bytes, its shape {shape} needs {_nbytes(entry)}"
        )
    return entry


def _nbytes(entry: TensorEntry) -> int:
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize


class MappedFile:
    """One safetensors file, mapped privately; a context manager. Copies leave none of its pages resident."""

    def __init__(self, file: Path) -> None:
        with open_file(file) as stream:
            # Copy on write, although nothing is written: torch.frombuffer warns of memory that is read-only.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)

    def __enter__(self) -> "MappedFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self._map.close()

    def copy_into(
        self,
        entry: TensorEntry,
        out: Tensor,
        index: int | None = None,
        before: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Copy a tensor, or its entry `index` along the first dimension, into `out`, piece by piece.

        `out` may be of any strides, dtype and device; its elements, row by row, are the stored ones in their order.
        `before` is called with the stored bytes of each piece, before it is read.

        Raises:
            CheckpointError: the file has become shorter since its header was read.
        """
        if entry.end > len(self._map):
            raise CheckpointError(
                f"{entry.file}: truncated: tensor {entry.name} ends at byte {entry.end}, the file at {len(self._map)}"
            )
        dtype, rows = DTYPES[entry.dtype], out if out.ndim else out.view(1)
        begin = entry.begin + (index or 0) * out.numel() * dtype.itemsize
        row_bytes = rows[0].numel() * dtype.itemsize if rows.numel() else 1
        for part in torch.split(rows, max(1, PIECE_BYTES // row_bytes)):
            if part.numel():
                before(part.numel() * dtype.itemsize)
                piece = torch.frombuffer(self._map, dtype=dtype, count=part.numel(), offset=begin)
                part.copy_(piece.view(part.shape))
                del piece  # a map with views of it cannot be closed
                self._release(begin, part.numel() * dtype.itemsize)
                begin += part.numel() * dtype.itemsize

    def _release(self, begin: int, length: int) -> None:
        first = begin - begin % mmap.PAGESIZE  # madvise takes whole pages
        self._map.madvise(mmap.MADV_DONTNEED, first, min(length + begin - first, len(self._map) - first))

"""An expert as one run of bytes, in the form that its holder computes with, and back.

    length of the form u32 | the form, JSON | the tensors, each from a multiple of 64 on

The digest is that of all of it. Two holders of an expert, however they came by it, have the same bytes and digest:
where they do not, one of them computes something else.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from experts.shard.held.layer import ExpertCopy, LoadedExpert
from kernels.portable import Parts, UnportableError, matrix_of, parts_of

_LENGTH = struct.Struct("<I")
LINE = 64
MOST_FORM_BYTES = 1 << 14
MATRICES, BIASES = ("gate_up", "down"), ("gate_up_bias", "down_bias")


class PackedExpert:
    """An expert's bytes, of which nothing is copied: `views` one after the other are `total` bytes.

    Raises:
        UnportableError: its layout cannot be sent.
    """

    def __init__(self, expert: LoadedExpert) -> None:
        # Biases are plain matrices of one row.
        found = {name: parts_of(getattr(expert, name)) for name in MATRICES}
        found |= {name: parts_of(bias[None]) for name in BIASES if (bias := getattr(expert, name)) is not None}
        form = json.dumps({name: _described(parts) for name, parts in found.items()}).encode()
        self.views = [memoryview(_filled(_LENGTH.pack(len(form)) + form))]
        for tensor in (tensor for parts in found.values() for tensor in parts.tensors):
            self.views += [view_of(tensor), memoryview(bytes(-tensor.nbytes % LINE))]
        self.total = sum(map(len, self.views))
        self.digest = _digest(self.views)

    def piece(self, offset: int, count: int) -> Iterator[memoryview]:
        """The bytes from `offset` on, at most so many."""
        for view in self.views:
            if offset < len(view) and count > 0:
                yield view[offset : offset + count]
                count -= len(view) - offset
            offset = max(0, offset - len(view))


def view_of(bytes_N: Tensor) -> memoryview:
    """The same memory; it lives as long as the view."""
    return memoryview(bytes_N.numpy())  # type: ignore[arg-type]


def digest_of(expert: LoadedExpert) -> bytes:
    """SHA-256 of an expert's bytes in the form that it is held in.

    Raises:
        UnportableError: see `PackedExpert`.
    """
    return PackedExpert(expert).digest


def unpacked(copy: ExpertCopy, data_N: Tensor, digest: bytes, hidden: int, ffn: int) -> LoadedExpert:
    """The reverse of `PackedExpert`, from bytes (uint8) that come from elsewhere; in memory of its own.

    Raises:
        UnportableError: the bytes have another digest, or are no expert of these sizes.
    """
    if _digest([view_of(data_N)]) != digest:
        raise UnportableError(f"expert {copy.expert} of layer {copy.layer} has another digest than was said")
    try:
        made = dict(_matrices(data_N))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnportableError(f"no expert: {error}") from error
    sizes = {name: tuple(w.shape) for name, w in made.items()}
    expected = {"gate_up": (2 * ffn, hidden), "down": (hidden, ffn)}
    biases = {"gate_up_bias": (1, 2 * ffn), "down_bias": (1, hidden)}
    if sizes != expected | {name: shape for name, shape in biases.items() if name in sizes}:
        raise UnportableError(f"no expert of width {hidden} and size {ffn}: {sizes}")
    rest = {name: made[name][0].clone() for name in BIASES if name in made}
    return LoadedExpert(copy, made["gate_up"], made["down"], **rest)


def _matrices(data_N: Tensor) -> Iterator[tuple[str, Any]]:
    length = _LENGTH.unpack(bytes(data_N[: _LENGTH.size].numpy()))[0] if len(data_N) >= _LENGTH.size else -1
    if not 0 <= length <= min(MOST_FORM_BYTES, len(data_N) - _LENGTH.size):
        raise UnportableError(f"no form within {len(data_N)} bytes")
    form = json.loads(bytes(data_N[_LENGTH.size : _LENGTH.size + length].numpy()))
    place = _padded(_LENGTH.size + length)
    for name, (dtype, outputs, inputs, numbers, sizes) in form.items():
        tensors: list[Tensor] = []
        for size in sizes:
            if not 0 <= size <= len(data_N) - place:
                raise UnportableError(f"a tensor of {size} bytes in an expert of {len(data_N)}")
            tensors.append(data_N[place : place + size])
            place += _padded(size)
        yield name, matrix_of(Parts(str(dtype), int(outputs), int(inputs), tuple(map(int, numbers)), tuple(tensors)))


def _described(parts: Parts) -> list[Any]:
    sizes = [tensor.nbytes for tensor in parts.tensors]
    return [parts.dtype, parts.outputs, parts.inputs, parts.numbers, sizes]


def _digest(views: Sequence[memoryview]) -> bytes:
    found = hashlib.sha256()
    for view in views:
        found.update(view)
    return found.digest()


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % LINE)

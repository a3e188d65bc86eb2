"""Matrices read from a checkpoint, one at a time, into the layout that a backend computes with."""

from collections.abc import Callable

import torch
from torch import Tensor

from experts.checkpoint.directory import Checkpoint, Copy
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.source import Part, TensorSource, as_stored
from experts.checkpoint.stored import Shape
from kernels.formats.quantized import Matrix, Quantized, RowStack
from kernels.formats.rounding import Rounding
from kernels.ops import Ops


class Packer:
    """Reads in `dtype` on `device` and packs with `ops`, so that no two matrices are ever there in both forms.

    `keep_packed` leaves a matrix that is stored in blocks with scales as it was published. The dense form of a matrix
    that is packed or rounded is reused for the next one of that shape, until `rest`; of so many `shapes` at a time.
    Allocated anew for each, they would leave holes between those that are kept, a third of the weights in all. `before`
    is called before each piece that is read with its bytes, see `Checkpoint.load`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Ops,
        dtype: torch.dtype,
        device: torch.device,
        keep_packed: bool,
        progress: Callable[[int], None],
        before: Callable[[int], None] = lambda _: None,
        shapes: int = 1,
    ) -> None:
        self._checkpoint = checkpoint
        self._ops = ops
        self._dtype = dtype
        self._device = device
        self._keep_packed = keep_packed
        self._progress = progress
        self._before = before
        self._shapes = shapes
        self._spare: dict[tuple[Shape, torch.dtype], Tensor] = {}

    def rest(self) -> None:
        """Let go of what is kept for the next matrix."""
        self._spare.clear()

    def read(self, source: TensorSource) -> Tensor:
        """Read a tensor to be used as it is."""
        dtype = torch.float32 if source.float32 else self._dtype
        out = self._fill(torch.empty(source.shape, dtype=dtype, device=self._device), source)
        self._progress(out.nbytes)
        return out

    def read_matrix(self, source: TensorSource, gate_up: bool = False) -> Matrix:
        """As `read`, for a matrix that only `Ops.linear` will see, or `Ops.expert_ffn`; `gate_up` as in `Ops`."""
        if source.encoded and self._keep_packed:
            return self._ops.prepare_matrix(self._as_published(source), gate_up=gate_up)
        dense_OI = self._fill(self._room(source.shape, torch.float32 if source.float32 else self._dtype), source)
        if source.rounding is not None:
            return self._ops.prepare_matrix(self._rounded(dense_OI, source, source.rounding), gate_up=gate_up)
        self._progress(dense_OI.nbytes)
        packed_OI = self._ops.prepare_matrix(dense_OI, gate_up=gate_up)
        if packed_OI is dense_OI:
            del self._spare[source.shape, dense_OI.dtype]  # it belongs to the caller now
        return packed_OI

    def _room(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        found = self._spare.get((shape, dtype))
        if found is None:
            while len(self._spare) >= self._shapes:
                del self._spare[next(iter(self._spare))]  # freed before the next one is allocated
            found = self._spare[shape, dtype] = torch.empty(shape, dtype=dtype, device=self._device)
        return found

    def _rounded(self, dense_OI: Tensor, source: TensorSource, rounding: Rounding) -> Quantized:
        try:
            made = rounding.of(dense_OI)
        except ValueError as error:
            raise CheckpointError(f"{self._checkpoint.path}: matrix {source.parts[0].name}: {error}") from error
        self._progress(made.nbytes)
        return made

    def _as_published(self, source: TensorSource) -> Quantized:
        parts = tuple(self._encoded(part, part.encoding) for part in source.parts if part.encoding is not None)
        self._progress(source.resident_bytes(self._dtype, packed=True))
        return parts[0] if len(parts) == 1 else RowStack(parts)

    def _fill(self, out: Tensor, source: TensorSource) -> Tensor:
        plain, slices = list[Copy](), torch.split(out, [part.shape[0] for part in source.parts])
        for part, part_out in zip(source.parts, slices, strict=True):
            if part.encoding is None:
                plain += self._copies(part, (part_out,))
            else:
                self._encoded(part, part.encoding, out.dtype).dense_into(part_out)
        self._checkpoint.load(plain, before=self._before)
        return out

    def _encoded(self, part: Part, encoding: Encoding, dtype: torch.dtype | None = None) -> Quantized:
        """Read a matrix as it is stored, to be decoded to `dtype`, else to the model's."""
        try:
            targets = encoding.targets(part.shape, self._device)
            self._checkpoint.load(self._copies(part, targets), before=self._before)
            return encoding.matrix(targets, dtype or self._dtype)
        except CheckpointError:
            raise
        except ValueError as error:  # a shape that the format does not have, or contents that it does not allow
            raise CheckpointError(f"{self._checkpoint.path}: matrix {part.name}: {error}") from error

    def _copies(self, part: Part, targets: tuple[Tensor, ...]) -> list[Copy]:
        """Where each stored tensor of a part goes. Checked here too: a shard has not read the headers of all files."""
        copies = []
        for stored, target in zip(part.stored(), targets, strict=True):
            self._checkpoint.check_one(stored)
            copies.append(Copy(stored.name, as_stored(target, part.layout), part.index))
        return copies

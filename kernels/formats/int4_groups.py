"""INT4 matrices with a scale for each group of inputs, as compressed-tensors, GPTQ and AWQ publish them.

Source: GPTQ (arXiv 2210.17323), AWQ (arXiv 2306.00978) and their checkpoints. Those lay the codes out in three ways;
loaders bring them into the one that is here.
Legend: O outputs (rows), I inputs (columns), P bytes of a row (I/2, rounded up), G groups along I, M rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from kernels.formats.checks import check_packed
from kernels.formats.groups import check_groups, groups_of, scale_groups, shift_groups
from kernels.formats.quantized import Coded, Scratch

# The zero point of a symmetric matrix: codes 0..15 stand for -8..7.
MIDDLE = 8


@dataclass(frozen=True, eq=False)
class Int4Groups(Coded):
    """w = (code - zero) * the scale of its group; codes are 0..15.

    With `order_I` column j of codes is input order_I[j] of the matrix: GPTQ's act-order gives a group inputs that do
    not lie together, so columns are kept sorted by group. A kernel then takes x[:, order_I] and reads on; decoded rows
    are in the matrix's own order.

    Args:
        codes_OP: uint8 [O, P], two codes a byte, the low four bits being the earlier column.
        scales_OG: bfloat16, float16 or float32 [O, G], as published; a scale may be negative.
        dtype: what it decodes to.
        group: inputs of a group; G is I/group, rounded up, the last group being cut off by the edge.
        inputs: I, since a byte may have half to spare.
        zeros_OG: uint8 [O, G], 0..15; None for a symmetric matrix, whose zero is 8.
        order_I: int32 [I], a permutation; None where columns are in their own order.

    All contiguous and on one device. Raises ValueError where they do not fit; the contents are not checked.
    """

    codes_OP: Tensor
    scales_OG: Tensor
    dtype: torch.dtype
    group: int
    inputs: int
    zeros_OG: Tensor | None = None
    order_I: Tensor | None = None

    def __post_init__(self) -> None:
        codes, wanted = self.codes_OP, -(-self.inputs // 2)
        if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] != wanted:
            found = f"{codes.dtype} {tuple(codes.shape)}"
            raise ValueError(f"codes of {self.inputs} inputs must be uint8 [O, {wanted}], got {found}")
        check_groups((len(codes), self.inputs), self.scales_OG, self.group)
        zeros, order = self.zeros_OG, self.order_I
        if zeros is not None and (zeros.dtype != torch.uint8 or zeros.shape != self.scales_OG.shape):
            wanted_zeros = tuple(self.scales_OG.shape)
            raise ValueError(f"zeros must be uint8 {wanted_zeros}, got {zeros.dtype} {tuple(zeros.shape)}")
        if order is not None and (order.dtype != torch.int32 or tuple(order.shape) != (self.inputs,)):
            raise ValueError(f"order must be int32 [{self.inputs}], got {order.dtype} {tuple(order.shape)}")
        further = {name: tensor for name, tensor in (("zeros", zeros), ("order", order)) if tensor is not None}
        check_packed(self.dtype, codes=codes, scales=self.scales_OG, **further)

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        group: int,
        scale_dtype: torch.dtype = torch.bfloat16,
        zeros: bool = False,
        ordered: bool = False,
    ) -> Int4Groups:
        """A matrix [O, I] without contents, for a loader that fills its tensors in place."""
        outputs, inputs = shape
        of_groups = outputs, groups_of(inputs, group)
        return cls(
            codes_OP=torch.empty(outputs, -(-inputs // 2), dtype=torch.uint8, device=device),
            scales_OG=torch.empty(of_groups, dtype=scale_dtype, device=device),
            dtype=dtype,
            group=group,
            inputs=inputs,
            zeros_OG=torch.empty(of_groups, dtype=torch.uint8, device=device) if zeros else None,
            order_I=torch.empty(inputs, dtype=torch.int32, device=device) if ordered else None,
        )

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return torch.Size((self.codes_OP.shape[0], self.inputs))

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.codes_OP.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.codes_OP, self.scales_OG, self.zeros_OG, self.order_I)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        wide_MI = self._codes(start, end, scratch)
        if self.zeros_OG is not None:
            shift_groups(wide_MI, self.zeros_OG[start:end], self.group)
        scale_groups(wide_MI, self.scales_OG[start:end], self.group)
        return wide_MI if self.order_I is None else self._in_order(wide_MI, scratch)

    def _rows_at_once(self, scratch: Scratch) -> int:
        rows = super()._rows_at_once(scratch)
        return rows if self.order_I is None else max(1, rows // 2)

    def _in_order(self, wide_MI: Tensor, scratch: Scratch) -> Tensor:
        """Each input where it belongs, in the half of the scratch memory that the codes left, if they did."""
        size = wide_MI.numel()
        rest_N = scratch.wide_N[size : 2 * size]
        ordered_MI = rest_N.view(wide_MI.shape) if len(rest_N) == size else torch.empty_like(wide_MI)
        return torch.index_select(wide_MI, 1, self._place_of_input, out=ordered_MI)

    def _codes(self, start: int, end: int, scratch: Scratch) -> Tensor:
        """Codes in float32, less 8 where the matrix is symmetric, in the order that they are stored in."""
        codes_MP = self.codes_OP[start:end]
        pairs = _pairs(0 if self.zeros_OG is not None else MIDDLE, self.device)
        if self.inputs % 2:  # a row's last half byte has no room in the scratch memory
            index_N, wide_N = codes_MP.reshape(-1).int(), torch.empty(2 * codes_MP.numel(), device=self.device)
        else:
            index_N = scratch.index_N[: codes_MP.numel()].copy_(codes_MP.view(-1))
            wide_N = scratch.wide_N[: 2 * len(index_N)]
        torch.index_select(pairs, 0, index_N, out=wide_N.view(torch.int64))
        return wide_N.view(len(codes_MP), -1)[:, : self.inputs]

    @cached_property
    def _place_of_input(self) -> Tensor:
        """The column of codes of each input: the inverse of `order_I`."""
        assert self.order_I is not None
        return torch.argsort(self.order_I)


@cache
def _pairs(middle: int, device: torch.device) -> Tensor:
    """For each byte its two codes less `middle` as float32, as one int64."""
    byte = torch.arange(256)
    return torch.stack((byte & 15, byte >> 4), 1).sub(middle).float().view(torch.int64).view(-1).to(device)

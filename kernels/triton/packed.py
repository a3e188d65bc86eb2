"""The grouped expert FFN over FP8 and MXFP4 weights as published: two Triton products that decode what they read.

As `kernels.triton.ffn`: nothing is decoded into memory, and the host never waits.
Legend: T tokens, E experts, N rows (token-expert pairs) sorted by expert, D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kernels import reference
from kernels.formats.quantized import Matrix, Quantized
from kernels.triton.ffn import Tiles, choose_tiles, constants, given, grid
from kernels.triton.packed_kernels import packed_down_kernel, packed_gate_up_kernel
from kernels.triton.packed_table import PackedTable, table_of
from kernels.weights import ExpertForm, ExpertWeights

# Of single matrices, as long as they live.
_TABLES: WeakKeyDictionary[Quantized, PackedTable | None] = WeakKeyDictionary()
# The first devices that convert FP8 themselves: Ada (8, 9).
_NATIVE_FP8 = (8, 9)


@dataclass(frozen=True)
class PackedWeights(ExpertWeights):
    """Weights with the tables of those matrices that have one."""

    gate_up_table: PackedTable | None = None
    down_table: PackedTable | None = None

    @classmethod
    def of(cls, weights: ExpertWeights) -> PackedWeights:
        """The same weights, with their tables."""
        own = {field.name: getattr(weights, field.name) for field in fields(ExpertWeights)}
        return cls(**own, gate_up_table=table_of(weights.gate_up), down_table=table_of(weights.down))


def gate_up(
    x_TD: Tensor, weights: ExpertWeights, table: PackedTable, token_of_row_N: Tensor, weight_of_row_N: Tensor,
    offsets_E1: Tensor,
) -> Tensor:  # fmt: skip
    """As `reference.gate_up`, for the matrices of `table`."""
    form, rows = weights.form, len(token_of_row_N)
    h_NF = x_TD.new_empty(rows, weights.ffn)
    if h_NF.numel():
        tiles = choose_packed_tiles(rows, weights.num_experts, x_TD.dtype, table)
        packed_gate_up_kernel[grid(tiles, rows, weights.num_experts, weights.ffn)](
            _ordered(x_TD, table), table.values, table.scales, table.places_EP2,
            given(weights.gate_up_bias, x_TD), token_of_row_N.contiguous(), weight_of_row_N.contiguous(), offsets_E1,
            h_NF, *_sizes(weights, table), form.alpha, form.limit,
            CLAMPED=form.clamped, WEIGHTED=form.weight_inputs, BIASED=weights.gate_up_bias is not None,
            **_constants(tiles, weights, table),
        )  # fmt: skip
    return h_NF


def down(
    h_NF: Tensor, weights: ExpertWeights, table: PackedTable, offsets_E1: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.down`, for the matrices of `table`."""
    rows = len(h_NF)
    y_ND = h_NF.new_empty(rows, weights.hidden, dtype=torch.float32)
    if y_ND.numel():
        tiles = choose_packed_tiles(rows, weights.num_experts, h_NF.dtype, table)
        packed_down_kernel[grid(tiles, rows, weights.num_experts, weights.hidden)](
            _ordered(h_NF, table), table.values, table.scales, table.places_EP2, given(weights.down_bias, h_NF),
            weight_of_row_N.contiguous(), offsets_E1, y_ND, *_sizes(weights, table),
            WEIGHTED=not weights.form.weight_inputs, BIASED=weights.down_bias is not None,
            **_constants(tiles, weights, table),
        )  # fmt: skip
    return y_ND


def linear(x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """As `reference.linear`: a quantized matrix that has a table is decoded inside the product, as one expert's down.

    Never waits for the device, but for the first call with a matrix that has not been through `prepare_matrix`.
    """
    table = None if isinstance(w_OI, Tensor) else _table_of_one(w_OI)
    if table is None:
        return reference.linear(x_MI, w_OI, bias_O)
    outputs, inputs = w_OI.shape
    x_NI = x_MI.reshape(-1, inputs)
    # Only its shapes and its form are read: the matrix itself is found through the table.
    alone = ExpertWeights((w_OI,), (w_OI,), ExpertForm(weight_inputs=True))
    ends = torch.arange(0, 2 * len(x_NI), max(1, len(x_NI)), device=x_MI.device)
    y_NO = down(x_NI, alone, table, ends, x_NI)
    if bias_O is not None:
        y_NO += bias_O
    return y_NO.to(x_MI.dtype).view(*x_MI.shape[:-1], outputs)


def prepare_matrix(w_OI: Matrix, *, gate_up: bool = False) -> Matrix:  # noqa: ARG001 (one layout for both)
    """The matrix as it is; where a quantized one lies is noted for `linear`."""
    if not isinstance(w_OI, Tensor):
        _table_of_one(w_OI)
    return w_OI


def _table_of_one(w_OI: Quantized) -> PackedTable | None:
    if w_OI not in _TABLES:
        _TABLES[w_OI] = table_of((w_OI,))
    return _TABLES[w_OI]


def choose_packed_tiles(rows: int, num_experts: int, dtype: torch.dtype, table: PackedTable) -> Tiles:
    """As for dense matrices, with steps that do not cross a block of FP8. A byte of MXFP4 is two elements.

    Tiles are as high as registers allow, by ptxas for sm_80, sm_90 and sm_100: FP8 sums each block by itself first.
    """
    dense = choose_tiles(rows, num_experts, dtype)
    highest = 32 if dtype == torch.float32 else 128 if table.mxfp4 else 64
    depth = 32 if table.mxfp4 else min(table.depth, dense.depth)
    height = min(dense.rows, highest)
    return Tiles(height, dense.columns, depth, warps=8 if height >= 64 and height == highest else 4)


def native_fp8(device: torch.device) -> bool:
    """Whether the device converts FP8 itself."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _NATIVE_FP8


def _ordered(x_MI: Tensor, table: PackedTable) -> Tensor:
    """Contiguous; for MXFP4 even columns before odd ones, as a byte's two values meet two columns side by side."""
    if not table.mxfp4:
        return x_MI.contiguous()
    return x_MI.reshape(len(x_MI), -1, 2).transpose(-1, -2).contiguous()


def _sizes(weights: ExpertWeights, table: PackedTable) -> tuple[int, ...]:
    shape = weights.num_experts, weights.hidden, weights.ffn
    return *shape, table.parts, table.part_rows, table.row_bytes, table.scale_columns, *table.block


def _constants(tiles: Tiles, weights: ExpertWeights, table: PackedTable) -> dict[str, int | bool]:
    own = {"MXFP4": table.mxfp4, "NATIVE": not table.mxfp4 and native_fp8(table.values.device)}
    return constants(tiles, weights.num_experts) | own

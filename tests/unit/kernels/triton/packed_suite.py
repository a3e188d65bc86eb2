"""Kernels that decode packed weights themselves, bit by bit and as products. `test_triton.py` runs this.

Not collected by name, see `triton_suite.py`. Legend: O outputs (rows), I inputs (columns), E experts.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import reference
from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.quantized import Quantized, RowStack
from kernels.select import ops
from kernels.triton import ops as all_of_triton
from kernels.triton.decode import e8m0_values, fp4_values, fp8_values
from kernels.triton.packed import PackedWeights, choose_packed_tiles, native_fp8
from kernels.triton.packed_table import table_of
from tests.unit.kernels.kernel_cases import DTYPES, KINDS, Case, assert_near, make
from tests.unit.kernels.quantized_cases import FORMATS, any_fp8, any_mxfp4, exact, near_one, quantize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BITS = torch.arange(256, dtype=torch.uint8)
# The interpreter's own conversion of FP8 knows no NaN.
WAYS = [False, True] if native_fp8(torch.device(DEVICE)) else [False]
# numpy, in the interpreter, says so when it meets a NaN.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


@pytest.fixture(scope="module")
def triton_ops():
    ops("triton", DEVICE)  # checks that it can run here
    return all_of_triton


@triton.jit
def decode_kernel(codes_ptr, out_ptr, FORM: tl.constexpr, NATIVE: tl.constexpr):
    i = tl.arange(0, 256)
    codes = tl.load(codes_ptr + i)
    if FORM == "fp8":
        values = fp8_values(codes, NATIVE)
    elif FORM == "fp4":
        values = fp4_values(codes & 15)
    else:
        values = e8m0_values(codes)
    tl.store(out_ptr + i, values)


def decoded(form: str, native: bool = False) -> Tensor:
    out = torch.empty(256, device=DEVICE)
    decode_kernel[(1,)](BITS.to(DEVICE), out, FORM=form, NATIVE=native)
    return out.cpu()


def same(actual: Tensor, expected: Tensor) -> bool:
    return torch.equal(actual.nan_to_num(12345.0), expected.nan_to_num(12345.0))


@pytest.mark.parametrize("native", WAYS)
def test_every_fp8_code(native):
    assert same(decoded("fp8", native), BITS.view(torch.float8_e4m3fn).float())


def test_every_fp4_code():
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    assert same(decoded("fp4"), torch.cat((values, -values)).repeat(16))


def test_every_power():
    assert same(decoded("e8m0"), torch.tensor([*(2.0 ** (code - 127) for code in range(255)), torch.nan]))


def packed_forms(w: Tensor) -> dict[str, Quantized]:
    """A matrix [O, I] in each of the forms that a kernel reads."""
    whole, channels = (BlockFp8.empty(tuple(w.shape), w.dtype, DEVICE, block) for block in ((32, 32), (1, w.shape[1])))
    for packed in (whole, channels):
        packed.values_OI.copy_(w)
        packed.scales_BC.copy_(torch.rand(packed.scales_BC.shape, generator=torch.Generator().manual_seed(1)) + 0.5)
    return {"blocks over both halves": whole, "channels": channels, "mxfp4": near_one(w, "mxfp4")}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["blocks over both halves", "channels", "mxfp4"])
def test_matrices_in_one_piece(triton_ops, form, dtype):
    """Gate and up in one matrix, whose blocks need not end where the gate does."""
    problem = make(Case(9, experts=3, hidden=64, ffn=40), dtype, DEVICE)
    packed = tuple(packed_forms(w)[form] for w in problem.w_gate_up_E2FD)
    token, expert, weight = problem.rows
    order, offsets = reference.group_by_expert(expert, 3)
    rows = token[order], weight[order], offsets
    ours = triton_ops.prepare_weights(packed, problem.w_down_EDF)
    assert ours.gate_up_table is not None
    plain = reference.prepare_weights(tuple(w.dense() for w in packed), problem.w_down_EDF)
    expected = reference.gate_up(problem.x_TD, plain, *rows)
    assert_near(triton_ops.gate_up(problem.x_TD, ours, *rows), expected, dtype)


@pytest.mark.parametrize("form", FORMATS)
def test_several_steps_of_whole_blocks(triton_ops, form):
    """Blocks of 128 by 128, and more inputs than a step takes."""
    problem = make(Case(5, experts=2, hidden=288, ffn=160, top_k=2), torch.bfloat16, DEVICE, KINDS[5])

    def pack(w: Tensor) -> Quantized:
        if form == "mxfp4":
            return near_one(w, form)
        packed = BlockFp8.empty(tuple(w.shape), w.dtype, DEVICE)
        packed.values_OI.copy_(w * 16)
        packed.scales_BC.copy_(torch.linspace(0.05, 0.08, packed.scales_BC.numel()).view(packed.scales_BC.shape))
        return packed

    matrices = (problem.w_gate_up_E2FD, problem.w_down_EDF)
    packed = [tuple(pack(w) for w in of_experts) for of_experts in matrices]
    plain = problem.prepare_with(reference, *(tuple(w.dense() for w in ws) for ws in packed))
    expected = reference.expert_ffn(problem.x_TD, plain, *problem.rows)
    actual = triton_ops.expert_ffn(problem.x_TD, problem.prepare_with(triton_ops, *packed), *problem.rows)
    assert_near(actual, expected, torch.bfloat16)


@pytest.mark.parametrize("draw", [any_fp8, any_mxfp4])
def test_any_bytes(triton_ops, draw):
    """Codes of all kinds, NaN among them, which stay in their columns; scales too large for sums are left out."""
    w = draw((48, 64), torch.float32, seed=3)
    scales = w.scales_BC if isinstance(w, BlockFp8) else w.scales_OG
    scales.copy_(scales.clamp(max=1e6) if isinstance(w, BlockFp8) else scales % 150)
    if not isinstance(w, BlockFp8):
        scales[7, 1] = 255
    h = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    expected, sizes = h.double() @ exact(w).T, h.double().abs() @ exact(w).abs().T
    stored = {field.name: getattr(w, field.name) for field in fields(w)}
    w = replace(w, **{name: kept.to(DEVICE) for name, kept in stored.items() if isinstance(kept, Tensor)})
    weights = triton_ops.prepare_weights((near_one(torch.ones(128, 48, device=DEVICE), "fp8"),), (w,))
    rows = torch.tensor([0, 2], device=DEVICE), torch.ones(2, device=DEVICE)
    actual = triton_ops.down(h.to(DEVICE), weights, *rows).cpu().double()
    assert torch.equal(actual.isnan(), expected.isnan())
    assert 0 < expected.isnan().sum() < expected.numel()
    assert ((actual - expected).abs() <= 1e-5 * sizes)[~expected.isnan()].all()


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "scaled_fp8", "fp8_tensor"])
def test_tables_are_taken(triton_ops, form):
    """What the other tests of quantized experts compute goes through these kernels: nothing waits for the device."""
    problem = make(Case(9, experts=3, hidden=64, ffn=32), torch.bfloat16, DEVICE)
    packed = quantize(problem.w_gate_up_E2FD, form), quantize(problem.w_down_EDF, form)
    weights = triton_ops.prepare_weights(*packed)
    assert isinstance(weights, PackedWeights)
    assert weights.gate_up_table is not None
    assert weights.down_table is not None


def test_what_has_no_table(triton_ops):
    """Dense among quantized, two formats in one layer, blocks that no step divides: each as the reference has it."""
    problem = make(Case(7, experts=3, hidden=64, ffn=32), torch.bfloat16, DEVICE)
    fp8, mxfp4 = (quantize(problem.w_gate_up_E2FD, form) for form in ("fp8", "mxfp4"))
    narrow = tuple(BlockFp8.empty((64, 64), torch.bfloat16, DEVICE, (8, 8)) for _ in range(3))
    for w in narrow:
        w.values_OI.copy_(problem.w_gate_up_E2FD[0])
        w.scales_BC.fill_(0.5)
    stacks = RowStack((fp8[0].parts[0], mxfp4[0].parts[1]))
    for gate_up in ((fp8[0].dense(), *fp8[1:]), (fp8[0], *mxfp4[1:]), narrow, (stacks, *fp8[1:])):
        assert table_of(gate_up) is None
        plain, ours = (b.prepare_weights(gate_up, problem.w_down_EDF) for b in (reference, triton_ops))
        expected = reference.expert_ffn(problem.x_TD, plain, *problem.rows)
        assert_near(triton_ops.expert_ffn(problem.x_TD, ours, *problem.rows), expected, torch.bfloat16)


@pytest.mark.parametrize("rows", [(0,), (1,), (2, 9)], ids=str)
@pytest.mark.parametrize("form", ["blocks over both halves", "channels", "mxfp4"])
def test_linear_decodes_no_whole_matrix(triton_ops, form, rows, monkeypatch):
    """A product with one matrix takes the same kernel, for any number of rows and any dimensions before them."""
    w = packed_forms(torch.linspace(-1, 1, 72 * 64, device=DEVICE).view(72, 64))[form]
    x = torch.randn(*rows, 64, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    expected = (x.double() @ w.dense().double().T).float()
    monkeypatch.setattr(type(w), "dense", lambda _: pytest.fail("decoded whole"))
    assert_near(triton_ops.linear(x, triton_ops.prepare_matrix(w)), expected, torch.float32)


def test_a_step_never_crosses_a_block():
    for width, depth in ((128, 64), (48, 16), (32, 32)):
        packed = tuple(BlockFp8.empty((64, 96), torch.bfloat16, DEVICE, (16, width)) for _ in range(2))
        table = table_of(packed)
        assert table is not None
        assert choose_packed_tiles(64, 2, torch.bfloat16, table).depth == depth

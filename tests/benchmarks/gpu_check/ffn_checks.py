"""Checks of the expert FFN in each weight format, form of expert and height of tile.

Kernels are compiled as they are met, about a second each: not every switch meets every height.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.quantized import Matrix
from kernels.ops import Ops
from kernels.weights import ExpertWeights
from tests.benchmarks.gpu_check import exact
from tests.benchmarks.gpu_check.part import Setting
from tests.unit.kernels.kernel_cases import DTYPES, KINDS, PLAIN_KIND, TOLERANCE, Case, Kind, Problem, make

BF16 = torch.bfloat16
FORMATS = ("dense", "fp8", "mxfp4")
EVERYTHING = KINDS[-1]
SIZES = {"experts": 8, "hidden": 512, "ffn": 384, "top_k": 2}
SMALL = {"experts": 3, "hidden": 64, "ffn": 32, "top_k": 2}
# Of the mean share of an expert: tiles of 16, 32, 64 and 128 rows.
TOKENS = (3, 100, 230, 700)


@dataclass(frozen=True)
class FfnCheck:
    """One layer's experts over one routing."""

    case: Case
    format: str = "dense"
    dtype: torch.dtype = BF16
    kind: Kind = PLAIN_KIND

    @property
    def name(self) -> str:
        return f"expert_ffn {self.format} {str(self.dtype).removeprefix('torch.')} {self.kind} {self.case}"

    def error(self, ops: Ops, device: torch.device) -> float:
        """The largest error, as a share of what is allowed."""
        problem, weights = self._prepared(ops, device)
        expected = exact.expert_ffn(problem.x_TD, weights, problem.rows)
        return share(ops.expert_ffn(problem.x_TD, weights, *problem.rows), expected, TOLERANCE[self.dtype])

    def waits(self, ops: Ops, device: torch.device) -> float:
        """0 if a call only launches; else torch raises an error."""
        problem, weights = self._prepared(ops, device)
        ops.expert_ffn(problem.x_TD, weights, *problem.rows)
        torch.cuda.set_sync_debug_mode("error")
        try:
            ops.expert_ffn(problem.x_TD, weights, *problem.rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return 0.0

    def _prepared(self, ops: Ops, device: torch.device) -> tuple[Problem, ExpertWeights]:
        problem = make(self.case, self.dtype, str(device), self.kind)
        matrices = (problem.w_gate_up_E2FD, problem.w_down_EDF)
        packed = [tuple(self._packed(w) for w in of_experts) for of_experts in matrices]
        return problem, problem.prepare_with(ops, *packed)

    def _packed(self, w_OI: Tensor) -> Matrix:
        if self.format == "fp8":
            return as_fp8(w_OI)
        return as_mxfp4(w_OI) if self.format == "mxfp4" else w_OI


def ffn_checks(setting: Setting) -> Iterator[FfnCheck]:
    """The few of the interpreter, or all of a device."""
    if setting.small:
        yield from (FfnCheck(Case(3, **SMALL), form, kind=EVERYTHING) for form in FORMATS)
        return
    for form in FORMATS:
        yield from (FfnCheck(Case(tokens, **SIZES), form) for tokens in TOKENS)
        yield from (FfnCheck(Case(tokens, **SIZES), form, kind=EVERYTHING) for tokens in (TOKENS[0], TOKENS[-1]))
        yield from (FfnCheck(Case(TOKENS[0], **SIZES), form, dtype, EVERYTHING) for dtype in DTYPES if dtype != BF16)
    yield from (FfnCheck(Case(TOKENS[0], **SIZES), kind=kind) for kind in KINDS[1:-1])
    yield from (FfnCheck(Case(33, routing, **SIZES)) for routing in ("one_expert", "few_experts", "some_rows"))
    yield FfnCheck(Case(9, experts=8, hidden=33, ffn=17, top_k=2))
    yield FfnCheck(Case(4, experts=8, hidden=200, ffn=264, top_k=2), "fp8")


def as_fp8(w_OI: Tensor) -> BlockFp8:
    """The matrix rounded to FP8 in blocks of 128 by 128."""
    packed = BlockFp8.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device)
    packed.scales_BC.copy_(torch.linspace(0.004, 0.006, packed.scales_BC.numel()).view(packed.scales_BC.shape))
    packed.values_OI.copy_((w_OI.float() / 0.005).clamp(-448, 448))
    return packed


def as_mxfp4(w_OI: Tensor) -> Mxfp4:
    """A matrix of that shape: any codes, with scales that make values about as large as a weight."""
    packed, draw = Mxfp4.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device), torch.Generator()
    codes = torch.randint(256, packed.blocks_OGH.shape, dtype=torch.uint8, generator=draw.manual_seed(len(w_OI)))
    packed.blocks_OGH.copy_(codes)
    packed.scales_OG.copy_(torch.randint(119, 123, packed.scales_OG.shape, generator=draw))
    return packed


def share(actual: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest error over `tolerance` times the largest value; infinite where a NaN is on one side only."""
    if actual.shape != expected.shape or not torch.equal(actual.isnan(), expected.isnan()):
        return float("inf")
    if not expected.numel():
        return 0.0
    error = (actual.double() - expected).nan_to_num(0.0).abs().max().item()
    return error / (tolerance * max(expected.nan_to_num(0.0).abs().max().item(), 1e-3))

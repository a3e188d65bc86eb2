"""The native kernels on each instruction set of this CPU, and what they should compute, in float64.

Legend: T tokens, N rows (token-expert pairs), M rows of a product, D hidden, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from kernels.native.library import INSTRUCTION_SETS, available, library
from kernels.weights import ExpertForm
from tests.unit.kernels.kernel_cases import Problem

needs_native = pytest.mark.skipif(not available(), reason="the native library is not built, or cannot run on this CPU")


def instruction_sets() -> list[str]:
    """Those that this CPU has."""
    return [name for name in INSTRUCTION_SETS if available() and _can_select(name)]


def _can_select(name: str) -> bool:
    used = library().instruction_set
    try:
        library().select(name)
    except ValueError:
        return False
    assert used is not None
    library().select(used)
    return True


@contextmanager
def computing(instruction_set: str, threads: int = 1) -> Iterator[None]:
    """Compute so, then as before."""
    used, before = library().instruction_set, torch.get_num_threads()
    assert used is not None
    library().select(instruction_set)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        library().select(used)
        torch.set_num_threads(before)


def expert_rows_64(problem: Problem, gate_up: list[Tensor], down: list[Tensor]) -> Tensor:
    """y_ND in float64 but for what is rounded to x's dtype: weighted inputs, and the hidden vector."""
    rows, dtype = zip(*problem.rows, strict=True), problem.x_TD.dtype
    y_ND = torch.zeros(len(problem.rows[0]), problem.x_TD.shape[1], dtype=torch.float64)
    for n, (token, expert, weight) in enumerate(rows):
        x_D = problem.x_TD[token]
        if problem.form.weight_inputs:
            x_D = (x_D.float() * weight).to(dtype)
        pair = gate_up[expert] @ x_D.double() + _bias(problem.gate_up_bias, int(expert))
        h_F = _activated(*pair.chunk(2), problem.form).to(dtype)
        y_D = down[expert] @ h_F.double() + _bias(problem.down_bias, int(expert))
        y_ND[n] = y_D if problem.form.weight_inputs else y_D * weight.double()
    return y_ND


def _bias(biases: Tensor | None, expert: int) -> Tensor | float:
    return 0.0 if biases is None else biases[expert].double()


def _activated(gate_F: Tensor, up_F: Tensor, form: ExpertForm) -> Tensor:
    if not form.clamped:
        return gate_F * torch.sigmoid(gate_F) * up_F
    gate_F = gate_F.clamp(max=form.limit)
    return gate_F * torch.sigmoid(gate_F * form.alpha) * (up_F.clamp(-form.limit, form.limit) + 1)


def ascending_sums(y_ND: Tensor, token_N: Tensor, expert_N: Tensor, tokens: int) -> Tensor:
    """Each token's rows, added one by one by ascending expert in y's dtype."""
    y_TD = y_ND.new_zeros(tokens, y_ND.shape[1])
    for n in torch.argsort(expert_N, stable=True).tolist():
        y_TD[token_N[n]] += y_ND[n]
    return y_TD


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, so that NaN is like itself and zeros have signs."""
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))

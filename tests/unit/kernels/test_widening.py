"""Half-precision products on a CPU without their instructions: which way runs, what it gives, and what it keeps."""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
import sys

import pytest
import torch

from kernels import reference
from kernels.cpu import linear as cpu_linear
from kernels.cpu import ops as cpu
from kernels.cpu import widening
from kernels.cpu.widening import Widening
from kernels.formats.buffers import Buffers
from tests.unit.kernels.kernel_cases import KINDS, Case, assert_near, make
from tests.unit.kernels.quantized_cases import near_one

HALVES = (torch.bfloat16, torch.float16)
FROM = 5

# What a product on a weak CPU must be, for a process that is told to be one.
WEAK = """
import torch
from kernels.cpu.linear import linear, prepare_matrix
from kernels.cpu.widening import WIDENING, has_instructions
for dtype in (torch.bfloat16, torch.float16):
    assert not has_instructions(dtype)
    w = torch.randn(300, 96).to(dtype)
    assert prepare_matrix(w) is w
    for rows in (1, 3, 80):
        x = torch.randn(rows, 96).to(dtype)
        exact = x.double() @ w.double().T
        assert (linear(x, w) - exact).abs().max() <= 2 * torch.finfo(dtype).eps * exact.abs().max()
    assert WIDENING.rows_from(dtype) >= 2
"""


class Ways:
    """Counts the products of a CPU without half-precision instructions that are widened, and measures nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows_from: float = FROM) -> None:
        self.widened: list[int] = []
        wide_linear = widening.wide_linear

        def spy(x, w, bias=None):
            self.widened.append(len(x))
            return wide_linear(x, w, bias)

        monkeypatch.setattr(widening, "wide_linear", spy)
        monkeypatch.setattr(widening, "WIDENING", Widening(lambda dtype: dtype not in HALVES, lambda _dtype: rows_from))


@pytest.fixture
def weak(monkeypatch):
    return Ways(monkeypatch)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, FROM - 1, FROM, FROM + 1, 70])
def test_linear_on_both_sides_of_the_number(weak, rows, dtype, biased):
    x, w = torch.randn(rows, 24).to(dtype), torch.randn(40, 24).to(dtype)
    bias = torch.randn(40).to(dtype) if biased else None
    expected = x.double() @ w.double().T + (0 if bias is None else bias.double())
    packed = cpu_linear.prepare_matrix(w)
    assert packed is w
    assert_near(cpu_linear.linear(x, packed, bias), expected.to(dtype), dtype)
    assert weak.widened == [rows] * (rows >= FROM)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_experts_on_both_sides_of_the_number(weak, kind, dtype):
    for tokens in (FROM - 1, FROM, FROM + 1):
        problem = make(Case(tokens, "one_expert", top_k=1), dtype, kind=kind)
        expected = reference.expert_ffn(problem.x_TD, problem.prepare(reference), *problem.rows)
        weights = problem.prepare(cpu)
        assert {w.dtype for w in (*weights.gate_up, *weights.down)} == {dtype}
        assert_near(cpu.expert_ffn(problem.x_TD, weights, *problem.rows), expected, dtype)
    assert weak.widened == [FROM, FROM, FROM + 1, FROM + 1]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_quantized_matrices_are_widened_after_they_are_decoded(weak, dtype):
    w = near_one(torch.randn(200, 96).to(dtype), "fp8")
    for rows in (FROM - 1, FROM):
        x = torch.randn(rows, 96).to(dtype)
        assert_near(cpu_linear.linear(x, w), (x.double() @ w.dense().double().T).to(dtype), dtype)
    assert weak.widened == [FROM]


@pytest.mark.parametrize("elements", [1, 100, 24 * 7, 24 * 40])
def test_pieces_of_any_size_give_the_product(monkeypatch, elements):
    monkeypatch.setattr(widening, "_PIECE_ELEMENTS", elements)
    x, w, bias = (torch.randn(shape).bfloat16() for shape in ((9, 24), (40, 24), (40,)))
    expected = x.double() @ w.double().T + bias.double()
    assert_near(widening.wide_linear(x, w, bias), expected.bfloat16(), torch.bfloat16)


def test_the_memory_besides_is_kept_and_does_not_grow_with_the_matrix(monkeypatch):
    asked = []

    class Recorded(Buffers):
        def take(self, purpose, elements, dtype, device):
            taken = super().take(purpose, elements, dtype, device)
            asked.append((taken.nbytes, taken.data_ptr()))
            return taken

    monkeypatch.setattr(widening, "BUFFERS", Recorded())
    w = torch.randn(5000, 1024).bfloat16()
    for _ in range(2):
        widening.wide_linear(torch.ones(2, 1024).bfloat16(), w)
    (size, place), again = asked
    assert size <= 1 << 23 < 4 * w.numel()
    assert again == (size, place)
    assert w.dtype == torch.bfloat16


def test_a_cpu_with_instructions_measures_and_widens_nothing(monkeypatch):
    ways = Ways(monkeypatch)
    monkeypatch.setattr(widening, "WIDENING", Widening(lambda _dtype: True, lambda _dtype: pytest.fail("measured")))
    x, w = torch.randn(70, 24).bfloat16(), torch.randn(40, 24).bfloat16()
    assert torch.equal(widening.plain_linear(x, w), torch.mm(x, w.t()))
    assert widening.WIDENING.rows_from(torch.bfloat16) == math.inf
    assert ways.widened == []


def test_where_widening_never_pays_nothing_is_widened(monkeypatch):
    ways = Ways(monkeypatch, math.inf)
    x, w = torch.randn(70, 24).bfloat16(), torch.randn(40, 24).bfloat16()
    assert torch.equal(cpu_linear.linear(x, cpu_linear.prepare_matrix(w)), torch.mm(x, w.t()))
    assert ways.widened == []


def test_each_dtype_and_number_of_threads_is_measured_once(monkeypatch):
    asked = []

    def measure(dtype):
        asked.append((dtype, torch.get_num_threads()))
        return 3

    chosen = Widening(lambda dtype: dtype not in HALVES, measure)
    for threads in (1, 2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert [chosen.rows_from(dtype) for dtype in (*HALVES, torch.float32)] == [3, 3, math.inf]
    assert asked == [(dtype, threads) for threads in (1, 2) for dtype in HALVES]


@pytest.mark.parametrize(
    ("supported", "rows", "words"),
    [
        (True, 3, "torch.bfloat16 products: by this CPU's own instructions"),
        (False, 3, "from 3 rows on weights are widened to float32"),
        (False, math.inf, "no instructions, and widening does not pay"),
    ],
)
def test_the_way_is_logged_once(caplog, supported, rows, words):
    caplog.set_level(logging.INFO, "kernels.cpu.widening")
    chosen = Widening(lambda _dtype: supported, lambda _dtype: rows)
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        chosen.rows_from(dtype)
    told = [record.getMessage() for record in caplog.records if "bfloat16" in record.getMessage()]
    assert len(told) == 1
    assert words in told[0]


def test_a_torch_without_the_question_counts_as_a_cpu_without_instructions(monkeypatch):
    monkeypatch.setattr(widening, "_SUPPORT_OPS", {torch.bfloat16: "_is_mkldnn_gone_supported"})
    assert not widening.has_instructions(torch.bfloat16)
    assert widening.has_instructions(torch.float32)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN can be held to a weaker x86 only")
def test_a_process_held_to_avx2_widens():
    weak = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-c", WEAK], check=True, timeout=120, env=os.environ | weak)

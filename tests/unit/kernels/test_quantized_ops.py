"""Products with quantized matrices against those with the dense ones that they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import reference
from kernels.cpu import linear as cpu_linear
from kernels.cpu import ops as cpu
from kernels.cpu import widening
from kernels.formats import quantized
from kernels.formats.buffers import Buffers
from kernels.formats.quantized import RowStack
from kernels.select import ops
from tests.unit.kernels.kernel_cases import CASES, DTYPES, KINDS, Case, assert_near, make
from tests.unit.kernels.pairwise import pairwise
from tests.unit.kernels.quantized_cases import FORMATS, near_one, quantize, quantized_case

BACKENDS = ("reference", "cpu")


def dense_of(matrices):
    return tuple(w.dense() for w in matrices)


@pairwise(case=CASES, dtype=DTYPES, form=FORMATS, kind=KINDS)
def test_expert_ffn(case, dtype, form, kind):
    problem = make(quantized_case(case, form), dtype, kind=kind)
    packed = quantize(problem.w_gate_up_E2FD, form), quantize(problem.w_down_EDF, form)
    plain = problem.prepare_with(reference, *map(dense_of, packed))
    expected = reference.expert_ffn(problem.x_TD, plain, *problem.rows)
    for backend in BACKENDS:
        weights = problem.prepare_with(ops(backend), *packed)
        assert weights.quantized
        assert weights.gate_up == packed[0]
        assert_near(ops(backend).expert_ffn(problem.x_TD, weights, *problem.rows), expected, dtype)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts(dtype, form):
    problem = make(Case(9, experts=3, hidden=64, ffn=32), dtype)
    packed = quantize(problem.w_gate_up_E2FD, form), quantize(problem.w_down_EDF, form)
    token, expert, weight = problem.rows
    order, offsets = reference.group_by_expert(expert, 3)
    plain, fast = (problem.prepare_with(backend, *packed) for backend in (reference, cpu))
    h = reference.gate_up(problem.x_TD, plain, token[order], weight[order], offsets)
    assert_near(cpu.gate_up(problem.x_TD, fast, token[order], weight[order], offsets), h, dtype)
    y = reference.down(h, plain, offsets, weight[order])
    assert_near(cpu.down(h, fast, offsets, weight[order]), y, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dense_and_quantized_experts_side_by_side(backend):
    problem = make(Case(7, hidden=64, ffn=32), torch.bfloat16)
    packed = quantize(problem.w_gate_up_E2FD, "mxfp4"), quantize(problem.w_down_EDF, "fp8")
    mixed = tuple((ws[0].dense(), *ws[1:]) for ws in packed)
    chosen = ops(backend)
    expected = chosen.expert_ffn(problem.x_TD, problem.prepare_with(chosen, *packed), *problem.rows)
    actual = chosen.expert_ffn(problem.x_TD, problem.prepare_with(chosen, *mixed), *problem.rows)
    assert_near(actual, expected, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 17])
def test_linear(rows, dtype, form, backend):
    rng = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 96, generator=rng).to(dtype)
    w = near_one(torch.randn(200, 96, generator=rng).to(dtype), form)
    chosen = ops(backend)
    assert chosen.prepare_matrix(w) is w
    assert_near(chosen.linear(x, w), (x.double() @ w.dense().double().T).to(dtype), dtype)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 200), st.integers(1, 9), st.booleans())
def test_linear_over_several_pieces(parts, outputs, rows, biased):
    rng = torch.Generator().manual_seed(outputs)
    w = RowStack(
        tuple(near_one(torch.randn(outputs, 32, generator=rng), form) for form in ("fp8", "mxfp4", "fp8")[:parts])
    )
    x, bias = torch.randn(rows, 32, generator=rng), torch.randn(w.shape[0], generator=rng) if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_linear, "_PIECE_BYTES", 1)
        actual = cpu_linear.linear(x, w, bias)
    expected = x.double() @ w.dense().double().T + (0 if bias is None else bias)
    assert_near(actual.double(), expected, torch.float32)


@pytest.fixture(params=[1, 2])
def fresh_threads(monkeypatch, request):
    """So many threads; and no memory that earlier tests left, which would hide what these allocate."""
    buffers, before = Buffers(), torch.get_num_threads()
    torch.set_num_threads(request.param)
    widening.native(torch.bfloat16)  # what is measured once must not count here
    for module in (quantized, cpu_linear, widening):
        monkeypatch.setattr(module, "BUFFERS", buffers)
    yield
    torch.set_num_threads(before)


def peak_bytes(run: Callable[[], object], at: Path) -> int:
    """The most that `run` has allocated at a time, as torch's own record of every allocation says."""
    cpu_only = [torch.profiler.ProfilerActivity.CPU]
    # torch 2.11 warns unless it is told to keep events.
    with torch.profiler.profile(activities=cpu_only, profile_memory=True, acc_events=True) as profile:
        run()
    profile.export_chrome_trace(str(at))
    events = [event for event in json.loads(at.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@pytest.mark.usefixtures("fresh_threads")
@pytest.mark.parametrize("form", FORMATS)
def test_no_product_makes_a_whole_dense_matrix(form, tmp_path):
    x, w = torch.randn(4, 2048).bfloat16(), near_one(torch.randn(8192, 2048).bfloat16(), form)
    size = 2 * w.shape.numel()
    assert peak_bytes(lambda: cpu_linear.linear(x, w), tmp_path / "linear.json") < size / 3
    # Decoded whole it is there in its own dtype, and not in float32, which would take three times as much.
    assert size <= peak_bytes(w.dense, tmp_path / "decode.json") < 1.3 * size


@pytest.mark.usefixtures("fresh_threads")
@pytest.mark.parametrize("form", FORMATS)
def test_experts_make_no_whole_dense_matrix(form, tmp_path):
    problem = make(Case(2, experts=2, top_k=2, hidden=2048, ffn=3072), torch.bfloat16)
    packed = quantize(problem.w_gate_up_E2FD, form), quantize(problem.w_down_EDF, form)
    weights = problem.prepare_with(cpu, *packed)
    peak = peak_bytes(lambda: cpu.expert_ffn(problem.x_TD, weights, *problem.rows), tmp_path / "experts.json")
    assert peak < 2 * problem.w_down_EDF[0].numel()


def test_quantized_experts_that_do_not_fit_are_refused():
    problem = make(Case(2, experts=3, hidden=64, ffn=32), torch.bfloat16)
    gate_up, down = quantize(problem.w_gate_up_E2FD, "fp8"), quantize(problem.w_down_EDF, "fp8")
    for bad in ((down, down), (gate_up, down[:1]), (gate_up, (down[0], replace(down[1].parts[0], dtype=torch.half)))):
        with pytest.raises(ValueError, match=r"matrices|gate-up"):
            cpu.prepare_weights(*bad)

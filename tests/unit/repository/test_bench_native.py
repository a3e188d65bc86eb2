"""The benchmark of native speed: its arithmetic, and its pieces that need no cluster at the scale of a smoke test."""

import json
from argparse import ArgumentTypeError
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
import torch

from tests.benchmarks import bench_native
from tests.benchmarks.harness.checkpoints import SHAPES, ensure
from tests.benchmarks.harness.streams import Stream
from tests.benchmarks.native import floors, kernel_rows, limits, serving_rows, transfer_rows
from tests.benchmarks.native.figure import Figure, absent, compare, ratio, read, render
from tests.benchmarks.native.floors import Sizes, Work
from tests.benchmarks.native.format_rows import quantized
from tests.benchmarks.native.limits import Limits
from tests.benchmarks.native.plan import Plan
from tests.benchmarks.native.served import all_decoded_together

LIMITS = Limits((10.0, 20.0, 30.0), {"fma_f32": (100.0,), "dot_bf16": (150.0, 50.0, 400.0)}, (5.0,), "a test")
SIZES = Sizes(
    dense_bytes=1000.0,
    dense_weights=400.0,
    head_weights=100.0,
    expert_bytes=60.0,
    expert_weights=30.0,
    layers=2,
    experts=4,
    top_k=2,
    cache_bytes=8.0,
)
MET = Figure("decode", "a", "tokens/s", (9.0, 10.0, 12.0), floor=20.0)
MISSED = Figure("decode", "b", "ratio", (1.9, 2.1), target=1.5, note="calm")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = Plan("qwen3", "small", 1, 2, LIMITS, baselines=False)
    plan.directory = ensure("qwen3", "small", tmp_path / "qwen3")
    return plan


def test_limits_are_medians_and_the_highest_peak() -> None:
    assert LIMITS.bytes_per_second == 20e9
    assert LIMITS.operations_per_second == 150e9


@pytest.mark.parametrize(("experts", "top_k"), [(4, 2), (5, 1), (8, 8)])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_random_routing_touches_as_many_experts_as_counting_says(experts: int, top_k: int, rows: int) -> None:
    """Two rows of K of E experts have K * K / E in common on average (hypergeometric)."""
    chances = [comb(top_k, n) * comb(experts - top_k, top_k - n) / comb(experts, top_k) for n in range(top_k + 1)]
    common = sum(n * chance for n, chance in enumerate(chances))
    expected = {0: 0.0, 1: top_k, 2: 2 * top_k - common}[rows]
    assert floors.expected_experts(experts, top_k, rows) == pytest.approx(expected)


def test_real_routing_is_counted_by_layer() -> None:
    first, second = [[0, 1], [2, 3]], [[1, 2], [3, 2]]
    assert floors.distinct_experts([first]) == 2
    assert floors.distinct_experts([first, second]) == (3 + 2) / 2


def test_a_decode_step_reads_each_touched_weight_once_and_every_context() -> None:
    work = floors.decode_work(SIZES, rows=2, context=50, touched=3.5)
    assert work.bytes == 1000 + 2 * 3.5 * 60 + 2 * 50 * 8
    assert work.operations == 2 * 2 * (400 + 100 + 2 * 2 * 30)
    assert floors.decode_work(SIZES, 1, 0).bytes == 1000 + 2 * 2 * 60
    assert floors.decode_work(SIZES, 1000, 0).bytes == pytest.approx(1000 + 2 * 4 * 60)


def test_a_prompt_needs_the_head_once() -> None:
    work = floors.prefill_work(SIZES, 10)
    assert work.operations == 2 * (10 * (400 + 2 * 2 * 30) + 100)
    assert work.bytes == pytest.approx(1000 + 2 * 60 * floors.expected_experts(4, 2, 10))


def test_the_floor_is_the_slower_of_reading_and_computing() -> None:
    assert Work(20e9, 150e9 / 2).seconds(LIMITS) == 1.0
    assert Work(20e9 / 4, 150e9 * 2).seconds(LIMITS) == 2.0


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    directory = ensure(name, "small", tmp_path / name)
    sizes = floors.sizes_of(directory)
    stored = json.loads((directory / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    table = 512 * 128
    everything = sizes.dense_bytes + sizes.layers * sizes.experts * sizes.expert_bytes
    assert everything == pytest.approx(stored - 2 * table, rel=0.01)
    assert sizes.dense_bytes == pytest.approx(2 * (sizes.dense_weights + sizes.head_weights), rel=0.02)
    assert sizes.expert_bytes == 2 * sizes.expert_weights
    assert (sizes.head_weights, sizes.layers) == (table, 2)
    assert quantized(sizes).expert_bytes < 0.3 * sizes.expert_bytes


def test_figures_are_medians_with_spread_floor_target_and_verdict() -> None:
    assert (MET.value, MET.spread, MET.met) == (10.0, 3.0, None)
    assert (MISSED.value, MISSED.met, replace(MISSED, at_least=True).met) == (2.0, False, True)
    assert ratio("r", "w", [2.0, 30.0], [1.0, 10.0], 2.0).rounds == (2.0, 3.0)
    gone = absent("int4", "c", "no key", 2.5, at_least=True)
    _, met, missed, none, *notes = render([MET, MISSED, gone]).splitlines()
    assert met.split() == ["decode", "a", "10", "9", "to", "12", "tokens/s", "20"]
    assert missed.split()[-4:] == ["ratio", "<=", "1.5", "MISSED"]
    assert none.split()[-4:] == [">=", "2.5", "not", "measured"]
    assert notes == ["decode: b: calm", "int4: c: no key"]


def against(*before: Figure) -> dict[tuple[str, str], Figure]:
    return {(figure.row, figure.what): figure for figure in before}


@pytest.mark.parametrize(
    ("then", "changed"),
    [
        ((9.0, 10.0, 12.0), False),
        ((6.5, 7.0, 7.5), False),  # the new one's spread is 3
        ((6.5, 6.9, 7.5), True),
        ((4.0, 5.0, 9.0), False),  # the old one's is 5
        ((15.0, 15.5, 16.0), True),
        ((1.0,), False),  # of one round nothing is known
    ],
)
def test_a_change_is_more_than_the_larger_spread(then: tuple[float, ...], changed: bool) -> None:
    assert bool(compare([MET], against(replace(MET, rounds=then)))) is changed


def test_a_change_names_both_medians_and_what_came_or_went() -> None:
    old = replace(MET, rounds=(4.9, 5.0, 5.1))
    assert compare([MET], against(old)) == ["decode: a: 5 -> 10 tokens/s +100.0%"]
    assert compare([MET], {}) == ["1 figures that the other run does not have"]
    assert compare([MET], against(MET, MISSED)) == ["decode: b: no longer measured"]
    assert compare([MET], against(MET, replace(MISSED, row="layer"))) == []
    assert compare([replace(MET, rounds=())], against(MET)) == ["decode: a: measured in one of the runs only"]


def test_what_a_run_wrote_another_one_reads(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"figures": [MET.as_dict(), MISSED.as_dict()]}))
    kept = read(file)
    assert list(kept) == [("decode", "a"), ("decode", "b")]
    assert compare([MET, MISSED], kept) == []
    for wrong in ("", "[]", '{"figures": [{}]}'):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="not a result of this benchmark"):
            read(file)


def test_names_are_chosen_in_the_order_of_the_table() -> None:
    assert bench_native.chosen(["a", "b", "c"], "c,a") == ["a", "c"]
    assert bench_native.chosen(["a", "b"], "all") == ["a", "b"]
    with pytest.raises(ArgumentTypeError, match="no d; there are a, b"):
        bench_native.chosen(["a", "b"], "d,a")


def test_a_row_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    def broken(plan: Plan) -> list[Figure]:
        raise RuntimeError(f"scale {plan.scale}")

    monkeypatch.setitem(bench_native.ROWS, "decode", broken)
    monkeypatch.setitem(bench_native.ROWS, "packed", lambda _: [MET])
    second = replace(plan, shape="mixtral")
    first, once, again = bench_native.measure(["decode", "packed"], [plan, second])
    assert (first.value, first.note) == (None, "RuntimeError: scale small")
    assert once is MET
    assert again.what == "mixtral: failed"


def test_the_machine_is_measured() -> None:
    found = limits.measure(1, seconds=0.01, mebibytes=8)
    assert min(found.read[0], found.ping[0], *(values[0] for values in found.peaks.values())) > 0
    assert {figure.row for figure in bench_native.limit_figures(found)} == {"limits"}


def test_without_a_compiler_torch_stands_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.shutil, "which", lambda _: None)
    found = limits.measure(1, mebibytes=1)
    assert set(found.peaks) == {"fma_f32", "dot_bf16"}
    assert "torch (no g++" in found.source


def test_shares_are_of_what_can_be_done() -> None:
    assert kernel_rows.shares(10.0, [1.0, 2.0], 20.0) == (0.5, 0.25)


def test_streams_that_do_not_overlap_are_measured_again_with_more_tokens() -> None:
    early, late = Stream(0.0, times=[1.0, 3.0]), Stream(0.0, times=[2.0, 4.0])
    assert all_decoded_together([early, late])
    assert not all_decoded_together([early, Stream(0.0, times=[3.0, 4.0])])
    assert not all_decoded_together([Stream(0.0, times=[1.0, 1.0])])


def test_even_rows_give_each_expert_as_many(plan: Plan) -> None:
    x_TD, token_N, expert_N, weight_N = kernel_rows.even_rows(plan, 3)
    assert torch.bincount(expert_N).tolist() == [3] * 8
    assert len({*zip(token_N.tolist(), expert_N.tolist())}) == len(expert_N) == len(weight_N)
    assert (len(x_TD), int(token_N.max())) == (6, 5)


def test_kernels_are_measured(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_rows, "CACHE_BYTES", 1)
    monkeypatch.setattr(kernel_rows, "CONTEXT", 20)
    before = torch.get_num_threads()
    try:
        figures = kernel_rows.layer(plan) + kernel_rows.attention(plan)
    finally:
        torch.set_num_threads(before)
    assert [figure.target for figure in figures] == [0.8] * 3 + [0.6] * 2 + [0.7]
    assert min(figure.value or 0 for figure in figures) > 0


def test_loading_is_measured_against_dd(plan: Plan) -> None:
    dd, ours, share = transfer_rows.loading(plan)
    assert share.rounds[0] == pytest.approx(ours.rounds[0] / dd.rounds[0])


@pytest.mark.parametrize(("flags", "target"), [("flags : fma avx2", 10.0), ("flags : avx2 avx512f", 2.5), ("", 2.5)])
def test_prefill_should_win_by_more_without_avx512(
    flags: str, target: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(serving_rows, "CPU_INFO", tmp_path / "cpuinfo")
    assert serving_rows.prefill_target() == target

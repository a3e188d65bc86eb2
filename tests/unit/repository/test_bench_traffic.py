"""The traffic benchmark's pieces that need no other process, at the scale of a smoke test."""

import json
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch

from router_service.engine.request import Event
from tests.benchmarks import bench_traffic
from tests.benchmarks.harness.checkpoints import ensure
from tests.benchmarks.traffic import admission, engine_time, figure, gaps, options, picture
from tests.benchmarks.traffic.engine_time import StepTime
from tests.benchmarks.traffic.figure import Figure
from tests.benchmarks.traffic.first_token import conversation, load
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

MET = Figure("gap", "a / b", (2.0, 2.5, 4.0), 3.0, note="calm")
MISSED = Figure("half", "c / d", (0.5,), 0.7, at_least=True)
ABSENT = Figure("overlap", "e / f", (), 1.25, at_least=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure("qwen3", "small", tmp_path_factory.mktemp("checkpoint"))


def event(key: int) -> Event:
    return Event(key=key, front=0, stream=key, token=1)


def test_a_figure_is_the_median_of_its_rounds_and_knows_its_target() -> None:
    assert [one.value for one in (MET, MISSED, ABSENT)] == [2.5, 0.5, None]
    assert [one.met for one in (MET, MISSED, ABSENT)] == [True, False, None]


def test_the_table_shows_spread_target_verdict_and_notes() -> None:
    _, met, missed, absent, note = figure.render([MET, MISSED, ABSENT]).splitlines()
    assert met.split() == ["gap", "a", "/", "b", "2.50", "2", "to", "4", "<=", "3", "met"]
    assert missed.split()[4:] == ["0.50", ">=", "0.70", "MISSED"]
    assert absent.endswith("not measured")
    assert note == "gap: calm"


def test_the_result_is_json() -> None:
    kept = json.loads(json.dumps(figure.result({"cores": 2}, "command", [MET, ABSENT])))
    assert [(one["value"], one["met"]) for one in kept["figures"]] == [(2.5, True), (None, None)]


def test_ratios_are_of_neighbours_and_a_tail_is_of_the_slowest() -> None:
    assert figure.ratios([2.0, 30.0], [1.0, 10.0]) == (2.0, 3.0)
    assert figure.tail([1.0] * 99 + [50.0]) == pytest.approx(1.49)
    assert figure.tail([1.0] * 90 + [50.0] * 10) == 50.0


def test_the_picture_has_a_bar_for_what_was_measured() -> None:
    drawn = picture.page([MET, MISSED, ABSENT], "a <machine>")
    assert drawn.count("class='track'") == 2
    assert "width: 41.7%" in drawn
    assert "a &lt;machine&gt;" in drawn


def test_rows_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert bench_traffic.chosen("penalty,gap") == ["gap", "penalty"]
    with pytest.raises(ArgumentTypeError, match="no row gaps, tff; there are gap, long"):
        bench_traffic.chosen("tff,gap,gaps")


def test_a_row_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plan: Plan) -> list[Figure]:
        raise RuntimeError(f"scale {plan.scale}")

    monkeypatch.setitem(bench_traffic.ROWS, "gap", broken)
    monkeypatch.setitem(bench_traffic.ROWS, "long", lambda _: [MET])
    first, second = bench_traffic.measure(["gap", "long"], Plan(scale="small"))
    assert (first.met, first.note) == (None, "RuntimeError: scale small")
    assert second is MET


def test_gaps_are_of_each_stream_and_go_on_when_they_are_taken() -> None:
    meter = gaps.GapMeter()
    for keys, now in (((1, 2), 0.0), ((1,), 1.0), ((1, 2), 3.0)):
        meter.note([event(key) for key in keys], now)
    assert meter.taken() == [1.0, 2.0, 3.0]
    meter.note([event(2)], 7.0)
    assert meter.taken() == [4.0]


def test_equal_tokens_are_counted_place_by_place() -> None:
    assert admission.equal_share([[1, 2], [3, 4]], [[1, 2], [4, 3]]) == 0.5


def test_a_prompt_arrives_beside_streams(checkpoint: Path) -> None:
    with SteppedEngine(checkpoint, kv_cache_tokens=8192) as side:
        assert gaps.alone(side, prompt(300, "whole")) > 0
        seen = gaps.arrival(side, prompt(300, "long"), 0, calm_steps=3)
        assert len(seen.calm) == 3 * gaps.STREAMS
        assert len(seen.during) % gaps.STREAMS == 0
        assert seen.prompt_seconds >= max(seen.during)
        assert side.engine.idle()


def test_a_turn_computes_what_is_new(checkpoint: Path) -> None:
    with SteppedEngine(checkpoint, kv_cache_tokens=4096) as side:
        computed = [turn.computed for turn in conversation(side, "talk")]
    assert computed[0] == 200
    assert all(200 - 4 <= tokens <= 216 for tokens in computed[1:])


def test_every_request_of_a_load_gets_a_first_token(checkpoint: Path) -> None:
    with SteppedEngine(checkpoint, kv_cache_tokens=65536) as side:
        first, later = load(side, seed=0, requests=2)
    assert (len(first), len(later)) == (128, 128)


def test_a_large_cache_takes_all_chats_and_a_small_one_some(checkpoint: Path) -> None:
    with SteppedEngine(checkpoint, kv_cache_tokens=8192) as side:
        assert admission.together(side, chats=4, tokens=40, steps=2) == 4
    with SteppedEngine(checkpoint, kv_cache_tokens=256) as side:
        assert admission.together(side, chats=4, tokens=100, steps=2) < 4


def test_decoding_with_a_penalty_is_timed(checkpoint: Path) -> None:
    with SteppedEngine(checkpoint, kv_cache_tokens=4096) as side:
        assert options.decode_rate(side, [prompt(20, n) for n in range(2)], 1.05) > 0


def test_torchs_functions_operators_and_methods_are_clocked_and_python_is_not() -> None:
    x = torch.ones(4, 4)
    counted = engine_time.clocked(lambda: torch.mm(x, x) + x.sum(), reading=0.0)
    assert counted.calls == 3
    assert 0 < counted.inside <= counted.processor
    assert engine_time.clocked(lambda: sum(range(1000)), reading=0.0).calls == 0
    assert engine_time.reading_ns(calls=100) > 0


def test_own_time_is_what_neither_waits_nor_computes() -> None:
    without = [StepTime(10.0, 4.0, 0.0, 0), StepTime(10.0, 4.0, 0.0, 0)]
    within = [StepTime(12.0, 6.0, 3.0, 5), StepTime(12.0, 6.0, 3.0, 5)]
    assert engine_time.own_share(without, within) == pytest.approx(0.1)

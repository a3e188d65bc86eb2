"""A run's numbers, its table and its files."""

import math
from pathlib import Path

import numpy as np
import pytest

from cluster.bench.driver import Limits, Run
from cluster.bench.record import Record
from cluster.bench.summary import parse_bound, percentile, summarize
from cluster.bench.text import progress_line, render
from router_service.protocol import inference_pb2 as pb


def answered(due: float, first: float, *gaps: float, late: float = 0.0) -> Record:
    """Due at a time, with its first token so many seconds later, and more tokens behind each gap."""
    record = Record(due, due + late)
    now = due + first
    record.add(pb.GenerateResponse(token_ids=[1]), now)
    for gap in gaps:
        now += gap
        record.add(pb.GenerateResponse(token_ids=[1]), now)
    usage = pb.Usage(prompt_tokens=10, generated_tokens=1 + len(gaps), cached_prompt_tokens=4)
    record.add(pb.GenerateResponse(finish_reason=pb.STOP, usage=usage), now)
    record.ended = now
    return record


def failed(status: str) -> Record:
    return Record(0.0, 0.0, ended=9.0, status=status)


RUN = Run(0.0, [answered(0.0, 1.0, 0.5, 1.5), answered(1.0, 3.0), failed("UNAVAILABLE")], unfinished=2, unsent=1)
RUN.records[2].ended = 4.0


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_percentiles_are_numpys(count: int) -> None:
    values = sorted(np.random.default_rng(count).random(count).tolist())
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_tokens_are_the_servers_and_rates_are_of_the_whole_run() -> None:
    summary = summarize(RUN, {})
    assert (summary.completed, summary.failed, summary.unfinished, summary.unsent) == (2, 1, 2, 1)
    assert summary.errors == {"UNAVAILABLE": 1}
    assert (summary.input_tokens, summary.cached_tokens, summary.output_tokens) == (20, 8, 4)
    result = summary.as_dict()
    assert (result["duration"], result["request_throughput"], result["output_throughput"]) == (4.0, 0.5, 1.0)
    assert (result["input_throughput"], result["total_token_throughput"]) == (5.0, 6.0)
    assert (result["mean_ttft_ms"], result["p99_ttft_ms"]) == (2000.0, pytest.approx(2980.0))
    assert (result["mean_tpot_ms"], result["max_itl_ms"], result["median_itl_ms"]) == (1000.0, 1500.0, 1000.0)
    assert (result["mean_e2el_ms"], result["request_goodput"]) == (3000.0, None)


def test_a_message_of_several_tokens_is_one_gap_and_several_tokens() -> None:
    record = Record(0.0, 0.0)
    record.add(pb.GenerateResponse(token_ids=[1]), 1.0)
    record.add(pb.GenerateResponse(text="no token"), 1.5)
    record.add(pb.GenerateResponse(token_ids=[1, 2, 3], finish_reason=pb.LENGTH), 4.0)
    record.usage = pb.Usage(generated_tokens=4)
    assert (record.gaps, record.tpot) == ([3.0], 1.0)


@pytest.mark.parametrize(
    ("bounds", "good"),
    [({"ttft": 1.0}, 1), ({"ttft": 3.0}, 2), ({"tpot": 0.9}, 1), ({"e2el": 3.0, "ttft": 2.0}, 1), ({"ttft": 0.1}, 0)],
)
def test_goodput_counts_what_keeps_all_bounds(bounds: dict[str, float], good: int) -> None:
    summary = summarize(RUN, bounds)
    assert (summary.good, summary.as_dict()["request_goodput"]) == (good, good / 4)


def test_bounds_are_written_as_vllm_writes_them() -> None:
    assert parse_bound("ttft:500") == ("ttft", 0.5)
    for wrong in ("ttft", "ttft:", "ttft:0", "ttft:-1", "ttft:nan", "speed:3", ""):
        with pytest.raises(ValueError, match=r"must be NAME:MS .* got '"):
            parse_bound(wrong)


def test_the_table_says_it_all() -> None:
    text = render(summarize(RUN, {"ttft": 1.0}), {"ttft": 1.0})
    assert "2 completed, 1 failed (UNAVAILABLE 1), 2 unfinished, 1 arrived too late to be sent" in text
    assert "20, 8 of them cached" in text
    assert "good requests (ttft 1000 ms): 50.0%" in text
    (first,) = (line for line in text.splitlines() if line.startswith("time to first token"))
    assert first.split()[-5:] == ["2000.00", "2000.00", "2800.00", "2980.00", "3000.00"]


def test_a_run_without_an_answer_has_no_latencies_and_no_division_by_zero() -> None:
    for run in (Run(0.0), Run(0.0, [failed("UNAVAILABLE")])):
        summary = summarize(run, {"ttft": 1.0})
        assert summary.spans == {}
        assert "0 completed" in render(summary, {"ttft": 1.0})
        assert all(math.isfinite(value) for value in summary.as_dict().values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("limits", "bar"), [(Limits(6), 12), (Limits(None, 40.0), 6), (Limits(6, 10.0), 24), (Limits(), 0)]
)
def test_progress_follows_the_nearer_limit(limits: Limits, bar: int) -> None:
    line = progress_line(Run(0.0, RUN.records, running=3), limits, 10.0)
    assert line.count("#") == bar
    assert "3 running, 1 failed, 0 tokens/s, 10 s" in line


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="an extra: pip install 'expertmesh[chart]'")
    from cluster.bench.chart import draw

    for run in (RUN, Run(0.0, [answered(0.0, 1.0)]), Run(0.0)):
        draw(run, "model at host", tmp_path / "chart.png")
        assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")

"""The benchmarks' pieces that need no cluster, at the scale of a smoke test."""

from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.config import WeightsConfig
from kernels.formats.rounding import Rounding
from kernels.native.library import available
from router_service.protocol.fallback import Fallback
from router_service.text.text_model import load_text_model
from tests.benchmarks import (
    bench_fallback,
    bench_metrics,
    bench_overlap,
    bench_quality,
    bench_receive,
    bench_sampling,
    bench_tracing,
)
from tests.benchmarks.bench_attention import FORMS, seconds
from tests.benchmarks.bench_failover import chosen, render
from tests.benchmarks.bench_serving import Cell, measure, sides_of
from tests.benchmarks.failover.flows import Flows
from tests.benchmarks.failover.rows import Figures
from tests.benchmarks.harness import report
from tests.benchmarks.harness.checkpoints import PACKED_SHAPES, SHAPES, ensure, shape_of, write
from tests.benchmarks.harness.exchange import Payload, bare_sockets, our_data_plane
from tests.benchmarks.harness.sides import OneProcess, TransformersModel
from tests.benchmarks.harness.streams import Stream, decode_rate
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.native.floors import sizes_of
from tests.benchmarks.soak import Minute, faults
from tests.benchmarks.structured.answers import Validity, speeds, validity
from tests.benchmarks.structured.cases import USUAL
from tests.benchmarks.structured.libraries import measure as measure_library
from tests.benchmarks.structured.vocabularies import vocabularies


@pytest.mark.parametrize("name", FORMS)
def test_attention_of_single_rows(name: str) -> None:
    taken = seconds(FORMS[name], [20, 3, 20], scattered=True, layers=2, rounds=1)
    assert len(taken) == 2 + available()
    assert min(taken) > 0


def test_what_quantizing_costs() -> None:
    variants = list(bench_quality.settings())
    names = [bench_quality.name_of(weights) for weights in variants]
    assert names[0] == "none"
    assert names[-1] == "int4 in groups of 32, projections too"
    tokens = bench_quality.held_out_tokens()[:200]
    plain, count = bench_quality.loss(tokens, variants[0], 1)
    assert count == len(tokens) - 1
    assert abs(bench_quality.loss(tokens, variants[3], 1)[0] - plain) < 0.1 * plain
    layer = bench_quality.bundled_layers()[1]
    int8, int4 = (layer.error(rounding) for rounding in (Rounding("int8", 32), Rounding("int4", 32)))
    assert 0.005 < int8 < int4 / 10 < 0.02


def test_what_missing_experts_cost() -> None:
    """The same loss as the other benchmark's while none is missing, and a larger one without half of them."""
    tokens = bench_quality.held_out_tokens()[:200]
    with bench_fallback.BereftModel() as model:
        plain = model.loss(tokens, 1, Fallback.WAIT)
        assert plain == pytest.approx(bench_quality.loss(tokens, next(bench_quality.settings()), 1), abs=1e-4)
        model.transport.dead = set(range(0, model.experts, 2))
        drop, best = (model.loss(tokens, 1, policy)[0] for policy in bench_fallback.POLICIES)
    assert min(drop, best) > plain[0]


class Counter:
    """Something to call in a worker."""

    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, more: int) -> int:
        self.value += more
        return self.value


class InPlace:
    """A worker's interface around an object of this process."""

    def __init__(self, target: object) -> None:
        self.target = target

    def call(self, method: str, *args: object) -> object:
        return getattr(self.target, method)(*args)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("checkpoints")
    return {name: ensure(name, "small", base / name) for name in SHAPES | PACKED_SHAPES}


@pytest.mark.parametrize("name", SHAPES | PACKED_SHAPES)
def test_generated_checkpoints_are_whole_for_this_server(checkpoints: dict[str, Path], name: str) -> None:
    config = ModelConfig(checkpoint=str(checkpoints[name]))
    card = open_model(config, WeightsConfig("dequantized"), verify=True).card()
    tokenizer = load_text_model(checkpoints[name]).tokenizer
    assert (card.vocabulary, card.layers, card.dtype) == (512, 2, "bfloat16")
    assert tokenizer.decode(tokenizer.encode("Grüße", True)) == "Grüße"
    assert tokenizer.decode([511]).strip()


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_measured_on_each_side(checkpoints: dict[str, Path], name: str) -> None:
    theirs = InPlace(TransformersModel(checkpoints[name], "bfloat16"))
    one = InPlace(OneProcess(checkpoints[name], "bfloat16"))
    for cell in (Cell(0, 512, prefill=16), Cell(2, 512)):
        sides = sides_of(cell, None, one, theirs)  # type: ignore[arg-type]
        rates = measure(cell, sides, 1, steps=3)
        assert "one process" in rates
        assert all(rate > 0 for repeats in rates.values() for rate in repeats)
        assert "not measured" in report.rates({cell.name: rates}).splitlines()[-1]


@pytest.mark.parametrize("name", PACKED_SHAPES)
def test_packed_checkpoints_are_served_in_either_form(checkpoints: dict[str, Path], name: str) -> None:
    sizes = {}
    for packed in (True, False):
        side = OneProcess(checkpoints[name], "bfloat16", packed=packed)
        assert side.decode([[5, 6, 7]] * 2, 3) > 0
        sizes[packed] = sizes_of(checkpoints[name], packed).expert_bytes
    assert sizes[True] < 0.7 * sizes[False]


def test_a_worker_calls_and_reports_errors_and_memory() -> None:
    with Worker(Counter, 3) as worker:
        assert worker.call("add", 4) == 7
        assert worker.peak_bytes > 1 << 20
        with pytest.raises(RuntimeError, match="TypeError"):
            worker.call("add", "no number")
        assert worker.call("add", 1) == 8


def test_exchanges_run() -> None:
    assert len(bare_sockets(2, Payload(3000, 5000), 5)) == 5
    assert len(our_data_plane(shards=2, experts=8, top_k=2, hidden=64, tokens=3, rounds=5)) == 5


def test_receiving_is_measured() -> None:
    assert min(bench_receive.measure(shards=2, layers=3, repeats=1)) > 0


def test_decode_rate_counts_only_what_all_streams_share() -> None:
    early = Stream(0.0, times=[1.0, 2.0, 3.0, 4.0, 5.0])
    late = Stream(0.0, times=[2.5, 3.5, 4.5])
    assert decode_rate([early, late]) == pytest.approx(3 / 2.5 + 2 / 2.0)
    with pytest.raises(RuntimeError, match="had ended"):
        decode_rate([Stream(0.0, times=[1.0, 2.0]), late])


def test_failover_figures() -> None:
    """What is lost or differs is said below the table, and a strike without calls divides by nothing."""
    calm = Figures("a router killed", ["one of 2"], 9, [], [], 0.1, 0.2, 0.1, 100.0, 90.0, 0.0, 0.0)
    struck = replace(calm, lost=["UNAVAILABLE after 3 tokens: gone"], asks=200.0, duplicates=3.0)
    text = render([calm, struck])
    assert "no calls" in text
    assert "90 (90%)" in text
    assert "1.5%" in text
    assert "UNAVAILABLE after 3 tokens" in text
    assert "lost or different" not in render([calm])
    with pytest.raises(SystemExit, match="none of"):
        chosen("a comet")


def test_a_soak_that_grows_is_found() -> None:
    flat = [Minute(100 << 20, 50, 0.01, 999)] * 6
    assert faults(flat, Flows()) == []
    grown = flat[:3] + [Minute(300 << 20, 90, 0.05, 999)] * 3
    assert len(faults(grown, Flows(lost=["gone"]))) == 4


def test_the_heading_names_the_machine() -> None:
    args = Namespace(shape="qwen3", scale="small", dtype="bfloat16", shards=2, repeats=1, json=None, checkpoint=None)
    assert "torch" in report.heading({"machine": report.machine(), "settings": report.settings(args)})


def test_tracing_is_compared_by_round() -> None:
    """A slow moment of the machine that hits both of a round is not tracing's."""
    text = bench_tracing.compared("tokens/s", [1000.0, 100.0, 1000.0], [900.0, 95.0, 990.0])
    assert text == "tokens/s: off 1000, on 900, ratio 0.950 (0.900 to 0.990)"


def test_measuring_is_measured(checkpoints: dict[str, Path]) -> None:
    cost = bench_metrics.decoded(checkpoints["qwen3"], batch=2, turns=1)
    exchange = bench_metrics.large(1)
    assert min(cost.step_seconds, cost.observe_seconds, exchange.step_seconds, exchange.observe_seconds) > 0
    text = bench_metrics.render([cost, exchange], {"scrape": 0.02, "series": 7.0})
    assert "scrape 20" in text
    assert "series 7" in text


def test_a_penalty_is_measured(checkpoints: dict[str, Path]) -> None:
    side = OneProcess(checkpoints["qwen3"], "float32", 1 << 12)
    named = {
        "step": bench_sampling.steps(side, batch=2, context=8, rounds=2),
        "sampler": bench_sampling.sampler(50, batch=2, context=8, rounds=2),
    }
    assert side.engine.idle()
    assert min(value for pair in named.values() for value in (pair.off, pair.on, pair.ratio)) > 0
    assert "with / without" in bench_sampling.render(named)


def test_two_batches_over_a_delayed_link(tmp_path: Path) -> None:
    """Each way decodes, and the router waits for the link where nothing runs beside it."""
    write(shape_of("qwen3", "small"), tmp_path)
    with ExitStack() as stack:
        side = bench_overlap.FarExperts(tmp_path, "float32", 1, stack)
        result = bench_overlap.measure(side, batch=8, prompt_tokens=4, delay_s=0.01, turns=2)
    assert (result.delay_ms, side.layers) == (10.0, 2)
    assert result.wait_ms >= 2 * 8
    assert min(result.off, result.on, *result.medians) > 0
    assert "tokens/s" in bench_overlap.text_of(result)


def test_structured_answers() -> None:
    name, tokens = next(iter(vocabularies()))
    assert tokens is not None
    assert name.startswith("bundled")
    found = measure_library("llguidance", tokens, *USUAL["a call of one of 30 tools"], rounds=1)
    assert min(found.values()) > 0
    assert len(speeds(rounds=1)) == 1
    drawn = validity(3, 2)
    assert drawn == Validity(valid=5, tokens=drawn.tokens)

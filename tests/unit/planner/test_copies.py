"""What copies of experts cost: memory, and nothing else; and what is said where they do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.main import main, parser
from cluster.cli.serve.serve_flags import config_of
from cluster.cli.tools.inspect_command import look
from cluster.config import ConfigError, ModelConfig, config_from
from cluster.planner.available_memory import GIB
from cluster.planner.config_resolver import check_process, demands
from cluster.planner.memory_plan import Demand, DoesNotFitError, Forms, Room, refusal, smallest_shards, while_loading
from cluster.planner.model import open_model
from experts.config import WeightsConfig
from experts.placement import even_placement
from experts.shard.shard import load_shard
from kernels import select
from tests.support.tiny import Tiny

LARGE = Demand(experts=8, expert_bytes=10 * GIB, router_bytes=4 * GIB, cache_bytes=GIB)
TWICE = replace(LARGE, copies=2)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int]:
    experts = draw(st.integers(1, 300))
    shards = draw(st.integers(1, experts))
    return experts, shards, draw(st.integers(1, shards))


@given(layouts(), st.integers(1, 1 << 36), st.randoms())
def test_the_plan_is_of_what_the_fullest_shard_holds(
    layout: tuple[int, int, int], expert_bytes: int, random: Random
) -> None:
    """In whatever order the shards stand."""
    experts, shards, copies = layout
    ring = random.sample(range(shards), shards)
    placement = even_placement(experts, shards, copies, ring)
    held = [len(placement.held_by(shard)) for shard in range(shards)]
    demand = Demand(experts, expert_bytes, 0, 0, process_bytes=7, control_bytes=5, copies=copies)
    assert demand.shard(shards) == while_loading(max(held) * expert_bytes) + 7
    assert demand.together(shards) == while_loading(sum(held) * expert_bytes) + 7 * shards + demand.router + 5
    assert demand.weights == sum(held) * expert_bytes


@given(layouts(), st.integers(1, 1 << 36), st.integers(0, 1 << 40))
def test_the_smallest_shard_count_is_the_smallest(layout: tuple[int, int, int], expert_bytes: int, each: int) -> None:
    experts, _, copies = layout
    demand = Demand(experts, expert_bytes, 0, 0, copies=copies)
    fits = [shards for shards in range(copies, experts + 1) if demand.largest(shards) <= each]
    assert smallest_shards(demand, each) == (fits[0] if fits else None)


@pytest.mark.parametrize(("shards", "copies"), [(1, 1), (2, 2), (3, 2), (5, 3), (8, 2), (8, 7)])
def test_shards_load_what_was_planned(tiny: Callable[..., Tiny], shards: int, copies: int) -> None:
    path = tiny("qwen3_moe").path
    model = open_model(ModelConfig(checkpoint=str(path), device="cpu"), WeightsConfig("dequantized"))
    experts = model.plan.spec.gate.experts
    shards = min(shards, experts)
    placement = even_placement(experts, shards, min(copies, shards))
    all_bytes = 0
    for index in range(shards):
        read: list[int] = []
        shard = load_shard(
            index=index,
            placement=placement,
            checkpoint=model.plan.checkpoint,
            manifest=model.plan.tensors.experts,
            dtype=model.dtype,
            device=model.device,
            ops=select.ops("auto", model.device),
            progress=read.append,
        )
        planned = model.shard_bytes(len(placement.held_by(index)))
        assert (shard.weights_bytes, sum(read)) == (planned, planned)
        all_bytes += planned
    config = config_from({"experts": {"shards": shards, "copies": min(copies, shards)}})
    assert demands(config, model).dequantized.weights == all_bytes + model.router_bytes


def test_fewer_copies_that_fit_are_named() -> None:
    room = Room(LARGE.together(2), True, "here")
    said = refusal("dequantized", Forms(TWICE), room, 2)
    assert "2 shards with 2 copies of each expert, 1 router and the Front need" in said
    assert "; no number of shards fits on this machine with 2 copies of each expert; --copies 1 fits; " in said
    assert "\n" not in said


def test_a_memory_for_each_names_both_ways_out() -> None:
    said = refusal("dequantized", Forms(TWICE), Room(LARGE.largest(4), False, "on a GPU for each"), 4)
    assert "a shard of 4 with 2 copies of each expert needs 46.4 GiB" in said
    assert "; --shards 8 fits; --copies 1 fits" in said


def test_no_copies_are_named_where_none_fit() -> None:
    assert "--copies" not in refusal("dequantized", Forms(TWICE), Room(GIB, True, "here"), 2)
    assert "cop" not in refusal("dequantized", Forms(LARGE), Room(GIB, True, "here"), 2)


def test_a_shard_looks_at_its_node_with_its_copies(tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tiny("qwen3_moe").path)

    def configured(copies: int) -> None:
        sections = {"model": {"checkpoint": path, "device": "cpu"}, "weights": {"resident": "dequantized"}}
        config = config_from(sections | {"experts": {"shards": 2, "copies": copies}})
        check_process(config, open_model(config.model, config.weights), "shard")

    model = open_model(ModelConfig(checkpoint=path, device="cpu"), WeightsConfig("dequantized"))
    there = demands(config_from({"experts": {"shards": 2}}), model).dequantized.shard(2)
    monkeypatch.setattr("cluster.planner.config_resolver.host_bytes", lambda: there)
    configured(1)
    with pytest.raises(DoesNotFitError, match="a shard of 2 with 2 copies of each expert needs"):
        configured(2)


@pytest.mark.parametrize("shards", [2, 3])
def test_more_copies_than_shards_are_refused_by_both_keys(shards: int) -> None:
    args = parser().parse_args(["serve", "--shards", str(shards), "--copies", str(shards)])
    assert config_of(args).experts.copies == shards
    args = parser().parse_args(["demo", "--shards", str(shards), "--copies", "4"])
    with pytest.raises(ConfigError, match=f"experts.copies is 4, it must be at most experts.shards, which is {shards}"):
        config_of(args)


def test_inspect_counts_copies(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = look("deepseek-v3", 28), look("deepseek-v3", 28, copies=2)
    expert = one.dequantized.shard // 10  # of 256 on 28
    assert two.dequantized.shard == 20 * expert
    assert (two.dequantized.weights, two.expected, two.most) == (one.dequantized.weights, one.expected, one.most)
    assert main(["inspect", "deepseek-v3", "--shards", "28", "--copies", "2"]) == 0
    said = capsys.readouterr().out
    assert "a shard of 28, 2 copies" in said
    assert "with copies 2: the experts take 1.2 TiB packed, 2.4 TiB dequantized; a copy costs memory only" in said
    assert main(["inspect", "deepseek-v3", "--shards", "28", "--copies", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == 2


def test_inspect_refuses_more_copies_than_shards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "mixtral-8x7b", "--copies", "3"]) == 2
    assert "copies is 3, it must be from 1 to 2, the number of shards" in capsys.readouterr().err

"""Placements as files: what is written is read again, and what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.placement_file import PlacementFileError, load_placement, read_placement, write_placement
from experts.placement import LayerPlacement, Placement, even_placement

EVEN = even_placement(4, 2)


@st.composite
def placements(draw: st.DrawFn) -> tuple[Placement, tuple[int, ...]]:
    experts, shards = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    holders = st.lists(st.integers(0, shards - 1), min_size=1, max_size=shards, unique=True).map(tuple)
    layers = tuple(sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=4))))
    layer = st.tuples(*[holders] * experts).map(LayerPlacement)
    special = {number: draw(layer) for number in layers}
    return Placement(shards, draw(layer), special, epoch=draw(st.integers(0, 9))), layers


@given(placements(), st.text())
def test_what_is_written_is_read_again(made: tuple[Placement, tuple[int, ...]], reason: str) -> None:
    placement, layers = made
    saved = read_placement(write_placement(placement, layers, reason, {"epoch": placement.epoch}))
    assert saved.layers == layers
    assert (saved.reason, saved.made_from) == (reason, {"epoch": placement.epoch})
    assert saved.placement.shards == placement.shards
    assert {layer: saved.placement.layer(layer) for layer in layers} == {n: placement.layer(n) for n in layers}
    assert set(saved.placement.special) == set(layers)
    assert saved.placement.holding == {shard for n in layers for block in placement.layer(n).blocks for shard in block}


def changed(**fields: Any) -> str:
    """A file with other fields; None leaves one out."""
    data = json.loads(write_placement(EVEN, (0, 2))) | fields
    return json.dumps({name: value for name, value in data.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is no JSON: .*rebalance --save"),
        ("[" * 100_000, "it is no JSON: "),
        ("[1]", "it must be a JSON object"),
        (changed(format="x"), "format is x, it must be 'expertmesh-placement'"),
        (changed(version=2), "version is 2, this program reads version 1"),
        (changed(version=True), "version is True"),
        (changed(experts=0), "experts is 0, it must be an integer from 1 to"),
        (changed(shards=None), "shards is None, it must be an integer"),
        (changed(layers=[2, 0]), r"layers is \[2, 0\], they must ascend"),
        (changed(layers=["0"]), "layers is .*, it must list the numbers"),
        (changed(holders={"0": [0, 0, 1, 1]}), r"holders is \['0'\], it must be an object with a list for each of lay"),
        (changed(holders=None), "holders is None"),
        (changed(holders={"0": [0] * 4, "2": [0] * 3}), "holders.2 is 3, it must list who holds each of the 4 experts"),
        (
            changed(holders={"0": [0] * 4, "2": [0, 1, 0, 2]}),
            r"holders.2\[3\] is 2, it must be a shard, .* from 0 to 1",
        ),
        (changed(holders={"0": [0] * 4, "2": [0, 1, 0, []]}), r"holders.2\[3\] is \[\]"),
        (changed(holders={"0": [0] * 4, "2": [0, [1, 1], 0, 0]}), r"holders.2\[1\] is \[1, 1\]"),
        (changed(holders={"0": [0] * 4, "2": [0, True, 0, 0]}), r"holders.2\[1\] is True"),
        (changed(reason=7), "reason is 7, it must be a text"),
        (changed(made_from=[]), "made_from is .*, it must be an object"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(PlacementFileError, match=said):
        read_placement(text)


@pytest.mark.parametrize(
    ("experts", "layers", "shards", "said"),
    [
        (8, (0, 2), 2, "experts is 4, the model has 8 in a layer"),
        (4, (0, 1), 2, r"layers is \[0, 2\], the model's MoE layers are \[0, 1\]"),
        (4, (0, 2), 1, "holders is shard 1, there are 1 shards, counted from 0: start more"),
    ],
)
def test_what_does_not_fit_the_cluster_is_named(experts: int, layers: tuple[int, ...], shards: int, said: str) -> None:
    with pytest.raises(PlacementFileError, match=said):
        read_placement(write_placement(EVEN, (0, 2))).check(experts, layers, shards)
    read_placement(write_placement(EVEN, (0, 2))).check(4, (0, 2), 2)


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    with pytest.raises(PlacementFileError, match=r"placement.json: cannot be read: No such file"):
        load_placement(file)
    file.write_text("{}")
    with pytest.raises(PlacementFileError, match=r"placement.json: format is None"):
        load_placement(file)
    file.write_text(write_placement(EVEN, (0, 2)))
    assert load_placement(file).layers == (0, 2)

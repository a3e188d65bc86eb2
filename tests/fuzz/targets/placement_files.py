"""Placement files: what is accepted fits itself, and is read again as the same once it is written."""

from cluster.balance.placement_file import PlacementFileError, read_placement, write_placement
from experts.placement import LayerPlacement, Placement, even_placement
from tests.fuzz.target import Target


def read(data: bytes) -> None:
    """Read a file; write what it says, and read that."""
    saved = read_placement(data)
    placement = saved.placement
    assert set(placement.special) == set(saved.layers)
    assert max(placement.holding) < placement.shards
    assert {layer.experts for layer in placement.special.values()} == {placement.experts}
    saved.check(placement.experts, saved.layers, placement.shards)
    again = read_placement(write_placement(placement, saved.layers, saved.reason, saved.made_from))
    assert {layer: again.placement.layer(layer) for layer in saved.layers} == dict(placement.special)


COPIED = Placement(3, LayerPlacement(((0, 1), (1,), (2, 0), (2,))))
SEEDS = (
    write_placement(even_placement(4, 2), (0, 1), "promises 12%", {"epoch": 3}).encode(),
    write_placement(COPIED, (2, 7)).encode(),
)
TARGETS = (Target("placement_file", SEEDS, read, (PlacementFileError,), 2),)

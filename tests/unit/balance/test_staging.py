"""Plans in steps: whatever there is memory for, no shard holds more than its room, and all steps lead to the plan."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.judging.staging import staged
from cluster.balance.judging.stock import held_by_shards
from cluster.balance.moves import holds
from experts.placement import LayerPlacement, Placement, even_placement

LAYERS, EXPERTS, SHARDS = (0, 1, 2), 6, 3
EVEN = even_placement(EXPERTS, SHARDS)


def rotated(by: int) -> Placement:
    layer = LayerPlacement(tuple(((expert // 2 + by) % SHARDS,) for expert in range(EXPERTS)))
    return Placement(SHARDS, EVEN.everywhere, dict.fromkeys(LAYERS, layer))


def step(current: Placement, planned: Placement, room: int) -> Placement | None:
    held_S = held_by_shards(current, LAYERS)
    return staged(current, planned, LAYERS, held_S, np.full(SHARDS, room), np.full(SHARDS, 6))


def test_with_room_for_all_it_is_the_plan() -> None:
    planned = rotated(1)
    assert step(EVEN, planned, 12) is planned


def test_with_less_it_takes_some_layers_at_a_time() -> None:
    planned, current, steps = rotated(1), EVEN, 0
    while (following := step(current, planned, 9)) is not planned and following is not None:
        changed = [layer for layer in LAYERS if following.layer(layer) != current.layer(layer)]
        assert len(changed) == 1
        current, steps = following, steps + 1
    assert (following, steps) == (planned, 2)


def test_a_step_names_no_shard_that_holds_nothing() -> None:
    """Shard 2 has gone: what the map from before names beside its layers counts no more."""
    layer = LayerPlacement(((0,), (1,)) * 3)
    other = LayerPlacement(((1,), (0,)) * 3)
    current = Placement(SHARDS, EVEN.everywhere, dict.fromkeys(LAYERS, layer))
    following = step(current, Placement(SHARDS, other, dict.fromkeys(LAYERS, other)), 12)
    assert following is not None
    assert following.special[LAYERS[-1]] == layer
    assert following.holding == {0, 1}


def test_without_any_room_no_layer_changes() -> None:
    assert step(EVEN, rotated(1), 7) is None


@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=3, max_size=3), st.integers(6, 12))
def test_no_shard_ever_holds_more_than_its_room(homes: list[list[int]], room: int) -> None:
    special = {layer: LayerPlacement(tuple((home,) for home in one)) for layer, one in zip(LAYERS, homes, strict=True)}
    following = step(EVEN, Placement(SHARDS, EVEN.everywhere, special), room)
    if following is None:
        return
    both_S = sum(
        (holds(EVEN.layer(layer), SHARDS) | holds(following.layer(layer), SHARDS)).sum(axis=0) for layer in LAYERS
    )
    assert (both_S <= max(room, 6)).all()
    assert all(following.layer(layer) in (EVEN.layer(layer), special[layer]) for layer in LAYERS)

"""Maps of experts to shards, and batches that are grouped by them."""

import numpy as np

from experts.division.grouping import group_by_block
from experts.placement import LayerPlacement, Placement, even_placement, placement_of
from experts.routing import LOST, Routing
from router_service.router.reporting.failure_view import living_copies, unavailable_experts
from tests.fuzz.target import Target

MOST_SHARDS = 12


def place(data: bytes) -> None:
    """A map as `data` says, one expert after the other; what is accepted must hold together."""
    if len(data) < 4:
        return
    shards, tokens, width, special = 1 + data[0] % MOST_SHARDS, data[1] % 9, 1 + data[2] % 4, data[3] % 2
    layers = [LayerPlacement(one) for one in _maps(data[4:])[: 1 + special]]
    placement = Placement(shards, layers[0], dict(enumerate(layers[1:], 5)), epoch=data[3])
    for layer in layers:
        assert sorted({e for s in range(shards) for e in layer.held_by(s)}) == list(range(layer.experts))
        _group(layer, _routing(data, tokens, width, layer.experts))
    _count(placement, [bool(data[3] >> shard % 7 & 2) for shard in range(shards)])
    assert placement_of([placement.held_by(shard) for shard in range(shards)]).experts == placement.experts


def place_evenly(data: bytes) -> None:
    """The copies of an even placement are where they are asked for, and no shard has many more experts than others."""
    if len(data) < 3:
        return
    experts, shards, copies = data[0], data[1] % 20, data[2] % 6
    ring = sorted(range(shards), key=lambda shard: data[shard % len(data)])
    placement = even_placement(experts, shards, copies, ring)
    homes = np.bincount(placement.everywhere.home_of_E, minlength=shards)
    assert {len(holders) for holders in placement.everywhere.holders} == {copies}
    assert homes.max() - homes.min() <= 1


def _maps(data: bytes) -> list[tuple[tuple[int, ...], ...]]:
    """Two maps: each expert begins with how many holders it has."""
    holders, at = [], 0
    while at < len(data):
        end = at + 1 + data[at] % 4
        holders.append(tuple(data[at + 1 : end]))
        at = end
    half = len(holders) // 2
    return [tuple(holders), tuple(holders[half:] + holders[:half])]


def _routing(data: bytes, tokens: int, width: int, experts: int) -> Routing:
    random = np.random.default_rng(list(data[:16]))
    ids_TK = random.integers(0, experts, (tokens, width))
    ids_TK[random.random(tokens) < 0.1] = LOST
    return Routing(ids_TK, random.random((tokens, width), np.float32))


def _group(layer: LayerPlacement, routing: Routing) -> None:
    """Each (token, expert) that is not lost is in one block, that of the expert's holders, with its row and weight."""
    total, width = routing.expert_ids_TK.shape
    seen = []
    for group in group_by_block(routing, layer) if total else ():
        experts_A = routing.expert_ids_TK.reshape(-1)[group.pairs_A]
        assert (experts_A == group.experts_A).all()
        assert {layer.holders[expert] for expert in experts_A} == {layer.blocks[group.block]}
        assert (group.tokens_R[group.rows_A] == group.pairs_A // width).all()
        assert (routing.weights_TK.reshape(-1)[group.pairs_A] == group.weights_A).all()
        seen += group.pairs_A.tolist()
    assert sorted(seen) == np.flatnonzero(routing.expert_ids_TK.reshape(-1) != LOST).tolist()


def _count(placement: Placement, usable: list[bool]) -> None:
    gone = unavailable_experts(placement, usable)
    fewest = living_copies(placement, usable)
    assert (gone > 0) == (min((fewest[s] for s in range(placement.shards) if placement.held_by(s)), default=0) == 0)


EXPERTS = bytes([1, 0, 1, 1, 2, 0, 1, 2, 1, 2, 3, 0, 1, 2])
TARGETS = (
    Target("placement", (bytes([2, 5, 1, 1]) + EXPERTS, bytes([7, 8, 3, 0]) + EXPERTS * 4), place, (ValueError,), 2),
    Target("even_placement", (bytes([16, 4, 2]), bytes([128, 7, 3, 9, 2, 5])), place_evenly, (ValueError,), 1),
)

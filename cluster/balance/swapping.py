"""Local search: the fullest shard of each layer swaps an expert with another shard, or gives one away.

All layers at once. L layers, a of them still active, C places in which a copy may be, K places of one shard, E experts,
S shards, N nodes.
"""

import numpy as np
from numpy.typing import NDArray

from cluster.balance.layout import Bools, Floats, Layout

Ints = NDArray[np.int64]
NEAR = 1e-4  # A layer whose fullest shard is this close to the mean is done.


class Swapping:
    """The places of a layout, and swaps between them. An empty place holds expert E, which weighs nothing."""

    def __init__(self, layout: Layout, now_LES: Bools | None = None, price: float = 0.0) -> None:
        """Swap within `layout`; a copy that `now_LES` does not have costs `price` microseconds."""
        layers, _, shards = layout.held_LES.shape
        self._layout, self._price = layout, price
        self._now_LES = None if now_LES is None or not price else _with_empty(now_LES, True)
        self._held_LES = _with_empty(layout.held_LES, False)
        self._share_LE = np.concatenate([layout.share_LE, np.zeros((layers, 1))], axis=1)
        self._load_LS = layout.loads()
        self._shard_LC, self._expert_LC = _places(layout)
        self._place_LSK = _places_by_shard(self._shard_LC, shards)

    def run(self, rounds: int) -> None:
        """Swap until no layer's fullest shard gains, at most `rounds` times in each, and put it into the layout."""
        terrain, active = self._layout.terrain, np.arange(len(self._shard_LC))
        for _ in range(rounds):
            times_aS = self._load_LS[active] * terrain.slow_S
            active = active[times_aS.max(axis=1) > terrain.bound_L[active] * (1 + NEAR)]
            if not len(active):
                break
            active = self._swap(active)
        held_LES = self._held_LES[:, :-1]
        self._layout.free_LS += self._layout.held_LES.sum(axis=1) - held_LES.sum(axis=1)
        self._layout.held_LES = held_LES

    def _swap(self, active: Ints) -> Ints:
        """Make the best swap of each active layer's fullest shard; return the layers in which one gained."""
        slow_S = self._layout.terrain.slow_S
        times_aS = self._load_LS[active] * slow_S
        fullest_a = times_aS.argmax(axis=1)
        places_aK = self._place_LSK[active, fullest_a]
        value_aKC = self._values(active, fullest_a, places_aK)
        best_a = value_aKC.reshape(len(active), -1).argmin(axis=1)
        gained_a = value_aKC.reshape(len(active), -1)[np.arange(len(active)), best_a] < times_aS.max(axis=1) * (
            1 - NEAR / 10
        )
        giver_a = places_aK[np.arange(len(active)), best_a // self._shard_LC.shape[1]]
        taker_a = best_a % self._shard_LC.shape[1]
        self._exchange(active[gained_a], giver_a[gained_a], taker_a[gained_a])
        return active[gained_a]

    def _values(self, active: Ints, fullest_a: Ints, places_aK: Ints) -> Floats:
        """The slower of both shards' times after each swap of the fullest one's, [a, K, C]; infinite if impossible."""
        slow_S, row = self._layout.terrain.slow_S, active[:, None]
        given_aK, taken_aC = self._expert_LC[row, places_aK], self._expert_LC[active]
        other_aC = self._shard_LC[active]
        gain_aKC = self._share_LE[row, given_aK][:, :, None] - self._share_LE[row, taken_aC][:, None, :]
        own_load_a, own_slow_a = self._load_LS[active, fullest_a], slow_S[fullest_a]
        own_aKC = (own_load_a[:, None, None] - gain_aKC) * own_slow_a[:, None, None]
        other_aKC = (self._load_LS[row, other_aC][:, None, :] + gain_aKC) * slow_S[other_aC][:, None, :]
        value_aKC = np.maximum(own_aKC, other_aKC)
        if self._now_LES is not None:
            value_aKC += self._price * self._loaded(self._now_LES, row, fullest_a, given_aK, taken_aC, other_aC)
        barred_aC = (
            (other_aC == fullest_a[:, None]) | self._held_LES[row, taken_aC, fullest_a[:, None]] | (other_aC < 0)
        )
        value_aKC[np.broadcast_to(barred_aC[:, None, :], value_aKC.shape)] = np.inf
        value_aKC[self._held_LES[row[:, :, None], given_aK[:, :, None], other_aC[:, None, :]]] = np.inf
        value_aKC[(places_aK < 0) | (given_aK == self._held_LES.shape[1] - 1)] = np.inf
        return self._parted(value_aKC, row, fullest_a, given_aK, taken_aC, other_aC)

    @staticmethod
    def _loaded(now_LES: Bools, row: Ints, fullest_a: Ints, given_aK: Ints, taken_aC: Ints, other_aC: Ints) -> Ints:
        """How many more copies must be loaded after each swap than before it, [a, K, C]."""
        own_a = fullest_a[:, None]
        before_aK, before_aC = now_LES[row, given_aK, own_a], now_LES[row, taken_aC, other_aC]
        after_aKC = now_LES[row[:, :, None], given_aK[:, :, None], other_aC[:, None, :]]
        after_aC = now_LES[row, taken_aC, own_a]
        held = before_aK[:, :, None].astype(np.int8) + (before_aC.astype(np.int8) - after_aC)[:, None, :] - after_aKC
        loaded_aKC: Ints = held
        return loaded_aKC

    def _parted(
        self, value_aKC: Floats, row: Ints, fullest_a: Ints, given_aK: Ints, taken_aC: Ints, other_aC: Ints
    ) -> Floats:
        """Rule out swaps that bring a copy to a node that has one already, unless it stays on its node."""
        terrain = self._layout.terrain
        if terrain.apart < 2:
            return value_aKC
        on_LEN = np.zeros((*self._held_LES.shape[:2], terrain.nodes), np.bool_)
        for node in range(terrain.nodes):
            on_LEN[:, :, node] = self._held_LES[:, :, terrain.node_S == node].any(axis=2)
        on_LEN[:, -1] = False
        own_a, other_aN = terrain.node_S[fullest_a][:, None], terrain.node_S[other_aC]
        moves_aC = own_a != other_aN
        value_aKC[np.broadcast_to((on_LEN[row, taken_aC, own_a] & moves_aC)[:, None, :], value_aKC.shape)] = np.inf
        there_aKC = on_LEN[row[:, :, None], given_aK[:, :, None], other_aN[:, None, :]]
        value_aKC[there_aKC & moves_aC[:, None, :]] = np.inf
        return value_aKC

    def _exchange(self, layers: Ints, givers: Ints, takers: Ints) -> None:
        """Swap what is in two places of each layer."""
        given, taken = self._expert_LC[layers, givers], self._expert_LC[layers, takers]
        own, other = self._shard_LC[layers, givers], self._shard_LC[layers, takers]
        self._expert_LC[layers, givers], self._expert_LC[layers, takers] = taken, given
        change = self._share_LE[layers, given] - self._share_LE[layers, taken]
        self._load_LS[layers, own] -= change
        self._load_LS[layers, other] += change
        for expert, before, after in ((given, own, other), (taken, other, own)):
            self._held_LES[layers, expert, before] = False
            self._held_LES[layers, expert, after] = expert < self._held_LES.shape[1] - 1


def _with_empty(held_LES: Bools, empty: bool) -> Bools:
    """Who holds what, with the empty place as the last expert."""
    layers, _, shards = held_LES.shape
    return np.concatenate([held_LES, np.full((layers, 1, shards), empty)], axis=1)


def _places(layout: Layout) -> tuple[Ints, Ints]:
    """The shard of each place and the expert in it, both [L, C]; shard -1 where a layer has fewer places."""
    layers, experts, shards = layout.held_LES.shape
    layer, expert, shard = np.nonzero(layout.held_LES)
    free_layer, free_shard = np.nonzero(layout.free_LS > 0)
    repeat = layout.free_LS[free_layer, free_shard]
    layer = np.concatenate([layer, np.repeat(free_layer, repeat)])
    expert = np.concatenate([expert, np.full(int(repeat.sum()), experts)])
    shard = np.concatenate([shard, np.repeat(free_shard, repeat)])
    order = np.lexsort((expert, shard, layer))
    count_L = np.bincount(layer, minlength=layers)
    column = np.arange(len(layer)) - np.repeat(np.cumsum(count_L) - count_L, count_L)
    shard_LC = np.full((layers, int(count_L.max())), -1)
    expert_LC = np.full(shard_LC.shape, experts)
    shard_LC[layer[order], column], expert_LC[layer[order], column] = shard[order], expert[order]
    return shard_LC, expert_LC


def _places_by_shard(shard_LC: Ints, shards: int) -> Ints:
    """The places of each shard, [L, S, K], -1 behind the last."""
    layer, place = np.nonzero(shard_LC >= 0)
    shard = shard_LC[layer, place]
    count_LS = np.zeros((len(shard_LC), shards), np.int64)
    np.add.at(count_LS, (layer, shard), 1)
    first_LS = np.cumsum(count_LS, axis=1) - count_LS
    place_LSK = np.full((len(shard_LC), shards, int(count_LS.max())), -1)
    place_LSK[layer, shard, place - first_LS[layer, shard]] = place
    return place_LSK

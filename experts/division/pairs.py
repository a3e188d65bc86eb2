"""The division where shards answer with a row for each pair (`Form.EACH`): by the shard that is chosen for each expert.

A router adds a token's rows in the token's own order, so the choice changes no bit. A part is what one shard is asked
for of the experts with the same holders; the parts of one shard follow each other and are one call, in which a token's
row goes once.

T tokens, K experts per token, E experts, V experts and what splits have added to them, N pairs that are not lost.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experts.answers import NOTHING
from experts.choosing import NOBODY, Choice
from experts.division.base import CallRows, Sizes, distinct, rows_of
from experts.placement import LayerPlacement, Shards
from experts.routing import Routing

Integers = NDArray[np.integer[Any]]


class _Ranks(NamedTuple):
    """In which order pairs stand: `key_of_V` by expert, the last one being that of a lost pair; the expert of each
    rank; and for each part, in their order, its shard, its block and the rank behind its last one."""

    key_of_V: Integers
    expert_of_rank: NDArray[np.int32]
    shards: Integers
    blocks: Integers
    ends: Integers


class PairDivision:
    """A `Division` of a routing, by a choice or, where each expert has one holder, without one."""

    def __init__(self, routing: Routing, layer: LayerPlacement, choice: Choice | None) -> None:
        self._shape = routing.expert_ids_TK.shape
        total, width = self._shape
        ids_N = routing.expert_ids_TK.reshape(-1)
        if choice is None:
            ranks = _as_placed(layer)
        elif choice.splits:
            ids_N, ranks = _split(ids_N, layer, choice)
        else:
            ranks = _ranked(layer, choice.shard_of_E, np.arange(layer.experts))
        keys_N = ranks.key_of_V[ids_N]
        # Stable: within an expert rows keep the order of tokens, so that the same input gives the same bits.
        order_N = keys_N.argsort(kind="stable")
        ranks_N = keys_N[order_N]
        self._experts_N = ranks.expert_of_rank[ranks_N]
        self._weights_N = routing.weights_TK.reshape(-1)[order_N].astype(np.float32, copy=False)
        self._tokens_N = (order_N // width).astype(np.int32)
        self._order_N = order_N
        self._begin(layer, ranks, ranks_N.searchsorted(ranks.ends).tolist())

    def _begin(self, layer: LayerPlacement, ranks: _Ranks, ends: list[int]) -> None:
        """Keep the parts that have pairs, and the shards' runs of them."""
        self.ends, self.chosen, self.holders = [0], list[int](), list[Shards]()
        self.runs: list[tuple[int, range]] = []
        blocks, start = layer.blocks, 0
        for shard, block, end in zip(ranks.shards.tolist(), ranks.blocks.tolist(), ends, strict=True):
            if end == self.ends[-1]:
                continue
            if self.chosen and self.chosen[-1] != shard:
                self.runs.append((self.chosen[-1], range(start, len(self.chosen))))
                start = len(self.chosen)
            self.ends.append(end)
            self.chosen.append(shard)
            self.holders.append(blocks[block])
        if self.chosen:
            self.runs.append((self.chosen[-1], range(start, len(self.chosen))))

    def call_rows(self, parts: Sequence[int]) -> CallRows:
        """See `Division`."""
        at = self._at(parts)
        tokens_R, rows_A, whole = rows_of(self._tokens_N[at], self._shape[0])
        return CallRows(tokens_R, rows_A, self._experts_N[at], self._weights_N[at], whole)

    def sizes(self, parts: Sequence[int]) -> Sizes:
        """See `Division`."""
        at = self._at(parts)
        experts_A, tokens_A = self._experts_N[at], self._tokens_N[at]
        if not isinstance(at, slice):
            experts_A = np.sort(experts_A)
        rows = np.count_nonzero(np.bincount(tokens_A)) if self._shape[0] > 1 else 1
        return Sizes(int(rows), len(experts_A), distinct(experts_A))

    def places(self) -> NDArray[np.int64]:
        """See `Division`: a token's rows in the order in which its routing lists the experts."""
        places_TW = np.zeros(self._shape, np.int64)
        sent = self.ends[-1]
        places_TW.reshape(-1)[self._order_N[:sent]] = np.arange(1, 1 + sent)
        return places_TW

    def without(self, places_TW: NDArray[np.int64], parts: Sequence[int]) -> NDArray[np.int64]:
        """See `Division`."""
        places_TW = places_TW.copy()
        for part in parts:
            places_TW.reshape(-1)[self.pairs(part)] = NOTHING
        return places_TW

    def pairs(self, part: int) -> NDArray[np.int64]:
        """See `Division`."""
        return self._order_N[self.ends[part] : self.ends[part + 1]]

    def _at(self, parts: Sequence[int]) -> slice | NDArray[np.int64]:
        """Where the parts' pairs stand; a slice, which copies nothing, where they follow each other."""
        first, last = parts[0], parts[-1]
        if last - first + 1 == len(parts):
            return slice(self.ends[first], self.ends[last + 1])
        return np.concatenate([np.arange(self.ends[part], self.ends[part + 1]) for part in parts])


def _as_placed(layer: LayerPlacement) -> _Ranks:
    """Each block asked of its first holder."""
    blocks = np.arange(len(layer.blocks))
    return _Ranks(layer.sort_key_of_E, layer.expert_of_rank_E, layer.first_of_B, blocks, layer.end_keys_B)


def _ranked(layer: LayerPlacement, shard_of_V: Integers, expert_of_V: Integers) -> _Ranks:
    """Order by shard, block and expert."""
    blocks = len(layer.blocks)
    asked = np.flatnonzero(shard_of_V != NOBODY)
    if len(shard_of_V) > layer.experts:  # else experts ascend already
        asked = asked[expert_of_V[asked].argsort(kind="stable")]
    codes = shard_of_V[asked].astype(np.int64) * blocks + layer.block_of_E[expert_of_V[asked]]
    if int(codes.max(initial=0)) < 1 << 16:  # numpy sorts 16 bits by radix
        codes = codes.astype(np.uint16)
    order = codes.argsort(kind="stable")
    codes, asked = codes[order], asked[order]
    key_of_V = np.full(len(shard_of_V) + 1, len(asked), np.min_scalar_type(len(asked)))
    key_of_V[asked] = np.arange(len(asked))
    ends = np.append(np.flatnonzero(codes[1:] != codes[:-1]) + 1, len(codes))
    parts = codes[ends - 1] if len(codes) else codes[:0]
    expert_of_rank = np.append(expert_of_V[asked], 0).astype(np.int32)
    return _Ranks(key_of_V, expert_of_rank, parts // blocks, parts % blocks, ends[: len(parts)].astype(key_of_V.dtype))


def _split(ids_N: NDArray[np.int64], layer: LayerPlacement, choice: Choice) -> tuple[NDArray[np.int64], _Ranks]:
    """Give numbers past E to what further holders of an expert are asked for: its pairs behind those of the first."""
    ids_N, shard_of_V = ids_N.copy(), choice.shard_of_E.tolist()
    expert_of_V = list(range(layer.experts))
    left: dict[int, NDArray[np.int64]] = {}
    for expert, shard, pairs in choice.splits:
        if expert in left:
            ids_N[left[expert][:pairs]] = len(shard_of_V)
            shard_of_V.append(shard)
            expert_of_V.append(expert)
        else:
            left[expert] = np.flatnonzero(ids_N == expert)
            shard_of_V[expert] = shard
        left[expert] = left[expert][pairs:]
    return ids_N, _ranked(layer, np.array(shard_of_V), np.array(expert_of_V))

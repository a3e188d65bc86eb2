"""The division where shards answer with a row for each pair (`Form.EACH`): by the shard that is chosen for each expert.

A router adds a token's rows in the token's own order, so the choice changes no bit. A part is what one shard is asked
for of the experts with the same holders; the parts of one shard follow each other and are one call, in which a token's
row goes once.

T tokens, K experts per token, E experts, V experts and what splits have added to them, N pairs that are not lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experts.division.base import NOTHING, CallRows, Sizes, distinct
from experts.division.choosing import NOBODY, Choice
from experts.division.grouping import rows_of
from experts.placement import LayerPlacement, Shards
from experts.routing import Routing
from kernels.native.choice import Divided

Integers = NDArray[np.integer[Any]]


class _Ranks(NamedTuple):
    """In which order pairs stand: `key_of_V` by expert, the last one being that of a lost pair; the expert of each
    rank; and for each part, in their order, its shard, its block and the rank behind its last one."""

    key_of_V: Integers
    expert_of_rank: NDArray[np.int32]
    shards: Integers
    blocks: Integers
    ends: Integers


@dataclass(frozen=True, slots=True)
class PairDivision:
    """A `Division` of a routing of `shape`, [T, K].

    `order_N` says where the routing lists each pair, in the order of the parts; `experts_N` and `weights_N` are the
    pairs' own. `ready` has what is known of runs, by their first part, and `placed` the places, if they are.
    """

    shape: tuple[int, int]
    order_N: NDArray[np.int64]
    experts_N: NDArray[np.int32]
    weights_N: NDArray[np.float32]
    holders: Sequence[Shards]
    chosen: Sequence[int]
    runs: Sequence[tuple[int, Sequence[int]]]
    ends: Sequence[int]
    ready: Mapping[int, tuple[CallRows, Sizes]] = field(default_factory=dict)
    placed: NDArray[np.int64] | None = None

    def call_rows(self, parts: Sequence[int]) -> CallRows:
        """See `Division`."""
        if (known := self._known(parts)) is not None:
            return known[0]
        at = self._at(parts)
        tokens_R, rows_A, whole = rows_of(self._tokens(at), self.shape[0])
        return CallRows(tokens_R, rows_A, self.experts_N[at], self.weights_N[at], whole)

    def sizes(self, parts: Sequence[int]) -> Sizes:
        """See `Division`."""
        if (known := self._known(parts)) is not None:
            return known[1]
        at = self._at(parts)
        experts_A = np.sort(self.experts_N[at])
        return Sizes(len(np.unique(self._tokens(at))), len(experts_A), distinct(experts_A))

    def places(self) -> NDArray[np.int64]:
        """See `Division`: a token's rows in the order in which its routing lists the experts."""
        if self.placed is not None:
            return self.placed
        places_TW, sent = np.zeros(self.shape, np.int64), self.ends[-1]
        places_TW.reshape(-1)[self.order_N[:sent]] = np.arange(1, 1 + sent)
        return places_TW

    def without(self, places_TW: NDArray[np.int64], parts: Sequence[int]) -> NDArray[np.int64]:
        """See `Division`."""
        places_TW = places_TW.copy()
        for part in parts:
            places_TW.reshape(-1)[self.pairs(part)] = NOTHING
        return places_TW

    def pairs(self, part: int) -> NDArray[np.int64]:
        """See `Division`."""
        return self.order_N[self.ends[part] : self.ends[part + 1]]

    def _known(self, parts: Sequence[int]) -> tuple[CallRows, Sizes] | None:
        """What is known of these parts, if they are a run."""
        known = self.ready.get(parts[0])
        pairs = self.ends[parts[-1] + 1] - self.ends[parts[0]]
        return known if known is not None and self._follow(parts) and pairs == known[1].assignments else None

    @staticmethod
    def _follow(parts: Sequence[int]) -> bool:
        return parts[-1] - parts[0] + 1 == len(parts)

    def _at(self, parts: Sequence[int]) -> slice | NDArray[np.int64]:
        """Where the parts' pairs stand; a slice, which copies nothing, where they follow each other."""
        if self._follow(parts):
            return slice(self.ends[parts[0]], self.ends[parts[-1] + 1])
        return np.concatenate([np.arange(self.ends[part], self.ends[part + 1]) for part in parts])

    def _tokens(self, at: slice | NDArray[np.int64]) -> NDArray[np.int32]:
        return (self.order_N[at] // self.shape[1]).astype(np.int32)


def divide(routing: Routing, layer: LayerPlacement, choice: Choice | None) -> PairDivision:
    """Divide by a choice or, where each expert has one holder, without one."""
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
    weights_N = routing.weights_TK.reshape(-1)[order_N].astype(np.float32, copy=False)
    behind = ranks_N.searchsorted(ranks.ends)
    asked = np.flatnonzero(np.diff(behind, prepend=0))
    chosen = ranks.shards[asked].tolist()
    return PairDivision(
        routing.expert_ids_TK.shape,
        order_N,
        ranks.expert_of_rank[ranks_N],
        weights_N,
        holders=[layer.blocks[block] for block in ranks.blocks[asked].tolist()],
        chosen=chosen,
        runs=_runs(chosen),
        ends=[0, *behind[asked].tolist()],
    )


def divided(routing: Routing, layer: LayerPlacement, by: Divided) -> PairDivision:
    """As `divide`, of what the native library has made of the routing."""
    shape, blocks = routing.expert_ids_TK.shape, layer.blocks
    chosen, ends = [part[0] for part in by.parts], [0, *[part[2] for part in by.parts]]
    runs, ready, first, row = [], {}, 0, 0
    for rows, experts, last in by.runs:
        at = slice(ends[first], ends[last])
        call = CallRows(
            by.tokens_N[row:rows], by.rows_N[at], by.experts_N[at], by.weights_N[at], rows - row == shape[0]
        )
        runs.append((chosen[first], range(first, last)))
        ready[first] = (call, Sizes(rows - row, at.stop - at.start, experts))
        first, row = last, rows
    holders = [blocks[part[1]] for part in by.parts]
    arrays = (by.order_N, by.experts_N, by.weights_N)
    return PairDivision(shape, *arrays, holders, chosen, runs, ends, ready, by.places_N.reshape(shape))


def _runs(chosen: Sequence[int]) -> list[tuple[int, range]]:
    """The shards, each with its parts, which follow each other."""
    runs, first = [], 0
    for shard, same in groupby(chosen):
        last = first + len(list(same))
        runs.append((shard, range(first, last)))
        first = last
    return runs


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

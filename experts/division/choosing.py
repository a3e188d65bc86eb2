"""Which holder of each expert is asked in a batch, so that the slowest shard is fastest: the plain reference.

A shard's time is `ShardCosts`: so much for the call, for each expert whose weights it reads, for each (token, expert)
pair. To spread experts over their holders is scheduling on unrelated machines with restricted assignment, which has no
quick exact solution. So: the largest expert first to whoever is then done soonest (Graham, Bounds on Multiprocessing
Timing Anomalies, 1969); then along the shortest path of experts that make room for each other, from the slowest shard
to one that has time, while that helps; then, where pairs weigh more than reading weights twice, an expert's pairs are
split over its holders. The result is compared with splitting evenly and with taking turns, and is never slower.

Everything is decided by the arguments. `experts.division.chooser` has the fast way, which decides the same.
E experts, S shards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experts.costs import ShardCosts
from experts.placement import LayerPlacement

# A further holder of an expert must save so much of the slowest shard's time: each is one more part of a call.
WORTH = 0.99
NOBODY = -1


class Split(NamedTuple):
    """The next `pairs` of the expert, in the order of tokens, are asked of `shard`."""

    expert: int
    shard: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Choice:
    """`shard_of_E` int32: who is asked for each expert; `NOBODY` where it is not needed.

    An expert that several shards are asked for is in `splits` once for each, in the order of its holders, beside the
    one with most of its pairs in `shard_of_E`.
    """

    shard_of_E: NDArray[np.int32]
    splits: tuple[Split, ...] = ()

    def loads(self, pairs_E: NDArray[np.integer], shards: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The experts that each shard touches and its pairs, [S] each."""
        whole_E = self.shard_of_E != NOBODY
        whole_E[[split.expert for split in self.splits]] = False
        parts = [*zip(self.shard_of_E[whole_E].tolist(), pairs_E[whole_E].tolist(), strict=True)]
        parts += [(split.shard, split.pairs) for split in self.splits]
        experts_S, pairs_S = np.zeros((2, shards), np.int64)
        for shard, pairs in parts:
            experts_S[shard] += 1
            pairs_S[shard] += pairs
        return experts_S, pairs_S

    def slowest_us(self, pairs_E: NDArray[np.integer], costs: ShardCosts) -> float:
        """The time of the shard that takes longest."""
        return float(costs.of(*self.loads(pairs_E, len(costs.call_us_S))).max())


def choose(
    pairs_E: NDArray[np.integer], layer: LayerPlacement, costs: ShardCosts, ranks_S: Sequence[int] | None = None
) -> Choice:
    """Choose who is asked for the experts that have pairs.

    Args:
        pairs_E: the (token, expert) pairs of each expert; 0 where it is not needed.
        ranks_S: how shards can be reached: of an expert's holders only those of the lowest rank are asked. By default
            all alike.
    """
    search = _Search(pairs_E, layer, costs, ranks_S)
    if search.free:
        search.spread()
        search.make_room()
        search.keep_if_faster(search.split, WORTH)
        search.keep_if_faster(search.evenly)
        search.keep_if_faster(search.in_turns)
    return search.choice()


def choose_evenly(
    pairs_E: NDArray[np.integer], layer: LayerPlacement, costs: ShardCosts, ranks_S: Sequence[int] | None = None
) -> Choice:
    """Split each expert's pairs evenly over its holders: a baseline."""
    search = _Search(pairs_E, layer, costs, ranks_S)
    search.evenly()
    return search.choice()


def choose_in_turns(
    pairs_E: NDArray[np.integer], layer: LayerPlacement, costs: ShardCosts, ranks_S: Sequence[int] | None = None
) -> Choice:
    """Ask the holders round robin, from expert to expert: a baseline."""
    search = _Search(pairs_E, layer, costs, ranks_S)
    search.in_turns()
    return search.choice()


class _Search:
    """Pairs by expert and holder, and what they make of each shard.

    `free` are the experts that several shards could be asked for. Times follow from counts and not from sums of
    differences, so that both implementations have the same bits.
    """

    def __init__(
        self,
        pairs_E: NDArray[np.integer],
        layer: LayerPlacement,
        costs: ShardCosts,
        ranks_S: Sequence[int] | None,
    ) -> None:
        self._costs = (costs.call_us_S.tolist(), costs.expert_us_S.tolist(), costs.pair_us_S.tolist())
        self._shards = len(costs.call_us_S)
        self._experts, self._pairs = [0] * self._shards, [0] * self._shards
        self._of_E: list[int] = pairs_E.tolist()
        self._may = {e: _best(layer.holders[e], ranks_S) for e, pairs in enumerate(self._of_E) if pairs > 0}
        self._given = {expert: [0] * len(shards) for expert, shards in self._may.items()}
        self.free = [expert for expert, shards in self._may.items() if len(shards) > 1]
        for expert, shards in self._may.items():
            if len(shards) == 1:
                self._give(expert, 0, self._of_E[expert])

    def choice(self) -> Choice:
        """What was decided."""
        shard_of_E = np.full(len(self._of_E), NOBODY, np.int32)
        splits: list[Split] = []
        for expert, given in self._given.items():
            shards = self._may[expert]
            shard_of_E[expert] = shards[given.index(max(given))]
            if sum(map(bool, given)) > 1:
                splits += [Split(expert, shard, pairs) for shard, pairs in zip(shards, given, strict=True) if pairs]
        return Choice(shard_of_E, tuple(splits))

    def spread(self) -> None:
        """The largest first, each to the holder that is then done soonest."""
        for expert in sorted(self.free, key=lambda expert: -self._of_E[expert]):
            pairs = self._of_E[expert]
            times = [self._time(shard, 1, pairs) for shard in self._may[expert]]
            self._give(expert, times.index(min(times)), pairs)

    def make_room(self) -> None:
        """Move experts, each to another of its holders, while the slowest shard becomes faster by it."""
        for _ in range(4 * self._shards):
            path = self._path()
            if not path:
                return
            for expert, to in path:
                pairs = self._of_E[expert]
                self._give(expert, self._place(expert), -pairs)
                self._give(expert, to, pairs)

    def _path(self) -> list[tuple[int, int]]:
        """The experts to move, each with its new place; empty if nothing helps. Breadth first: the fewest moves."""
        start, limit = self._slowest()
        came: dict[int, tuple[int, int, int]] = {}
        queue = [start]
        for shard in queue:
            brought = self._of_E[came[shard][1]] if shard in came else 0
            for expert in self.free:
                pairs, place = self._of_E[expert], self._place(expert)
                if self._may[expert][place] != shard:
                    continue
                if shard != start and self._time(shard, 0, brought - pairs) >= limit:
                    continue
                for to, other in enumerate(self._may[expert]):
                    if other == start or other in came:
                        continue
                    came[other] = (shard, expert, to)
                    if self._time(other, 1, pairs) < limit:
                        return _walked(came, other, start)
                    queue.append(other)
        return []

    def split(self) -> None:
        """Pairs of the slowest shard go to further holders of their experts, while that is worth it."""
        for _ in range(2 * self._shards):
            start, limit = self._slowest()
            best, move = WORTH * limit, None
            for expert in self.free:
                shards = self._may[expert]
                if start not in shards or not self._given[expert][here := shards.index(start)]:
                    continue
                for to, other in enumerate(shards):
                    if other != start and (pairs := self._even(expert, here, to, limit)):
                        after = self._after(expert, here, to, pairs)
                        if after < best:
                            best, move = after, (expert, here, to, pairs)
            if move is None:
                return
            expert, here, to, pairs = move
            self._give(expert, here, -pairs)
            self._give(expert, to, pairs)

    def _even(self, expert: int, here: int, to: int, limit: float) -> int:
        """How many of the expert's pairs go over, so that both shards take about the same time; 0 if none."""
        (call, one, each), other = self._costs, self._may[expert][to]
        opens = 0 if self._given[expert][to] else 1
        taken = call[other] + one[other] * (self._experts[other] + opens) + each[other] * self._pairs[other]
        pairs = int((limit - taken) / (each[self._may[expert][here]] + each[other])) if taken < limit else 0
        return min(pairs, self._given[expert][here])

    def _after(self, expert: int, here: int, to: int, pairs: int) -> float:
        shards, given = self._may[expert], self._given[expert]
        closes, opens = int(given[here] == pairs), int(given[to] == 0)
        return max(self._time(shards[here], -closes, -pairs), self._time(shards[to], opens, pairs))

    def evenly(self) -> None:
        """Each expert's pairs evenly over its holders, the first ones getting what remains."""
        self._clear()
        for expert in self.free:
            share, more = divmod(self._of_E[expert], len(self._may[expert]))
            for place in range(len(self._may[expert])):
                self._give(expert, place, share + (place < more))

    def in_turns(self) -> None:
        """One expert at its first holder, the next one at its second, and so on."""
        self._clear()
        for turn, expert in enumerate(self.free):
            self._give(expert, turn % len(self._may[expert]), self._of_E[expert])

    def keep_if_faster(self, change: Callable[[], None], worth: float = 1.0) -> None:
        """Undo a change, unless the slowest shard's time is below `worth` of before."""
        before, kept = self._slowest()[1], {expert: list(self._given[expert]) for expert in self.free}
        change()
        if self._slowest()[1] < worth * before:
            return
        self._clear()
        for expert, given in kept.items():
            for place, pairs in enumerate(given):
                self._give(expert, place, pairs)

    def _clear(self) -> None:
        for expert in self.free:
            for place, pairs in enumerate(self._given[expert]):
                self._give(expert, place, -pairs)

    def _give(self, expert: int, place: int, pairs: int) -> None:
        """So many pairs more, or fewer, to one of its holders."""
        shard, given = self._may[expert][place], self._given[expert]
        before, given[place] = given[place], given[place] + pairs
        self._experts[shard] += (given[place] > 0) - (before > 0)
        self._pairs[shard] += pairs

    def _place(self, expert: int) -> int:
        """Where an expert that is not split is."""
        given = self._given[expert]
        return given.index(max(given))

    def _time(self, shard: int, experts: int = 0, pairs: int = 0) -> float:
        """Its time with so much more."""
        (call, one, each), pairs = self._costs, self._pairs[shard] + pairs
        time: float = call[shard] + one[shard] * (self._experts[shard] + experts) + each[shard] * pairs
        return time if pairs else 0.0

    def _slowest(self) -> tuple[int, float]:
        times = list(map(self._time, range(self._shards)))
        return times.index(max(times)), max(times)


def _best(holders: Sequence[int], ranks_S: Sequence[int] | None) -> Sequence[int]:
    """Those of the lowest rank."""
    if ranks_S is None or len(holders) == 1:
        return holders
    lowest = min(ranks_S[shard] for shard in holders)
    return [shard for shard in holders if ranks_S[shard] == lowest]


def _walked(came: dict[int, tuple[int, int, int]], shard: int, start: int) -> list[tuple[int, int]]:
    """The moves from `start` to `shard`."""
    moves = []
    while shard != start:
        shard, expert, to = came[shard]
        moves.append((expert, to))
    return moves[::-1]

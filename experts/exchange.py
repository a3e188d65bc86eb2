"""Who is asked for which block of a layer, who is asked as well, and whose answer counts: decisions only.

No socket, no clock and no tensor. Times are seconds of one clock, which the caller hands in. A block is a number; what
it stands for is the caller's. The rules:

- A block is answered once: by the first answer that comes, whoever was asked first. Later ones change nothing.
- Of the shards that hold it, the one is asked whose link is in the best state: the chosen one, if it is one of those.
- If that one is suspect or late, another is asked as well (Dean and Barroso, The Tail at Scale, 2013: hedged requests).
- If it fails, another is asked instead. A block is lost when no shard is left from which an answer could be expected,
  or when a shard says that its computation would fail anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Generic, NamedTuple, Protocol, TypeVar

from experts.links.record import FailureRecord
from experts.links.state import LinkState

Call = TypeVar("Call")
SUSPECT = "suspect"
# How soon to look again where a shard's window is full: an answer ends the wait sooner.
FULL_SECONDS = 0.05


class Reach(Protocol):
    """How the shards can be reached; see `experts.transport.base.Transport`."""

    def state(self, shard: int) -> LinkState:
        """The state of the link to the shard."""
        ...

    def available(self, shard: int) -> bool:
        """Whether it can be asked now."""
        ...

    def rank(self, shard: int) -> int:
        """Which of several shards is to be asked first: the lowest."""
        ...

    def has_room(self, shard: int) -> bool:
        """Whether it may be asked for more."""
        ...


class HedgeBudget:
    """Bounds how many asks are repeated only because they are late, so that an overload does not feed itself.

    A share of all asks, and a number at once. Suspicion because of silence is not bounded: it ends in a dead link.
    """

    def __init__(self, share: float = 0.05, most: float = 32.0) -> None:
        self._share = share
        self._most = most
        self._left = most

    def earn(self) -> None:
        """An ask was sent."""
        if self._left < self._most:
            self._left += self._share

    def spend(self) -> bool:
        """Whether one more ask may be repeated; it counts."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(slots=True, eq=False)
class Attempt(Generic[Call]):
    """`blocks` asked of `shard` at `begun_s`; late from `late_s` on. `call` is the caller's own."""

    shard: int
    blocks: Sequence[int]
    begun_s: float
    late_s: float
    call: Call
    hedge: bool = False
    late: bool = False


class Ask(NamedTuple):
    """`blocks` are to be asked of `shard`. `hedge`: somebody else may still answer them."""

    shard: int
    blocks: Sequence[int]
    hedge: bool = False


class Loss(NamedTuple):
    """Why a block is lost: which shard failed last, a reason for counters, and a text."""

    shard: int
    reason: str
    text: str


@dataclass(slots=True)
class Exchange(Generic[Call]):
    """One layer's blocks.

    Args:
        holders: the shards that hold each block, the first to be asked first.
        reach: how shards can be reached.
        record: counts.
        budget: bounds repetitions for lateness.
        limit_s: a shard that has never beaten (its link is PROVEN) fails when it has not answered for so long.
        chosen: of each block's holders the one to be asked first; the first one, if none are given.
        runs: what that makes of each shard, so that a layer whose links all live costs a look at each shard.

    `attempts` are the open ones by the caller's number of each. `answered_by` has the shard of each answered block.
    `left` blocks are neither answered nor lost. `due_s`: when to `look`, in any case.
    """

    holders: Sequence[Sequence[int]]
    reach: Reach
    record: FailureRecord
    budget: HedgeBudget
    limit_s: float
    chosen: Sequence[int] = ()
    runs: Sequence[tuple[int, Sequence[int]]] = ()
    attempts: dict[int, Attempt[Call]] = field(default_factory=dict)
    answered_by: dict[int, int] = field(default_factory=dict)
    lost: dict[int, Loss] = field(default_factory=dict)
    due_s: float = inf
    hedged: bool = False
    _barred: set[tuple[int, int]] = field(default_factory=set)
    _free_s: dict[int, float] = field(default_factory=dict)
    _faults: list[tuple[int, str, float, list[int]]] = field(default_factory=list)
    _last: dict[int, Loss] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """How many blocks are neither answered nor lost."""
        return len(self.holders) - len(self.answered_by) - len(self.lost)

    def first(self) -> list[Ask]:
        """Whom to ask for what at the beginning. Blocks that nobody can be asked for now are left to `look`."""
        blocks_of: dict[int, list[int]] = {}
        rank = self.reach.rank
        if self.runs and not any(rank(shard) for shard, _ in self.runs):
            return [Ask(shard, blocks) for shard, blocks in self.runs]
        for block, holders in enumerate(self.holders):
            shard = self.chosen[block] if self.chosen else holders[0]
            if (best := rank(shard)) and len(holders) > 1 and min(map(rank, holders)) < best:
                shard = min(holders, key=rank)
            # The best rank is that of a link that lives: if it has no room, sending will say so.
            if shard in blocks_of or not best or (self.reach.available(shard) and self.reach.has_room(shard)):
                blocks_of.setdefault(shard, []).append(block)
            else:
                self.due_s = -inf
        return [Ask(shard, blocks) for shard, blocks in blocks_of.items()]

    def sent(self, number: int, attempt: Attempt[Call]) -> None:
        """An ask was sent."""
        self.attempts[number] = attempt
        self.due_s = min(self.due_s, attempt.late_s)
        self.record.asks += 1
        self.budget.earn()
        if attempt.hedge:
            self.hedged = True
            self.record.duplicates += 1

    def unsent(self, ask: Ask, reason: str, text: str, now: float) -> None:
        """An ask could not be sent."""
        self._repeat(ask.shard, ask.blocks, reason, text, now)

    def answered(self, number: int) -> list[int]:
        """An answer has come; returns the blocks whose answer it is, in the order in which they were asked."""
        attempt = self.attempts.pop(number)
        fresh = list(attempt.blocks)
        if self.hedged or self.lost:  # else each block is open in one attempt
            fresh = [block for block in fresh if self._open(block)]
        self.answered_by.update(dict.fromkeys(fresh, attempt.shard))
        if attempt.hedge and fresh:
            self.record.duplicates_won += 1
            self._faults.append((self._late(fresh), SUSPECT, attempt.begun_s, fresh))
        return fresh

    def failed(self, number: int, reason: str, text: str, now: float) -> None:
        """An ask has failed: its blocks are asked of others."""
        attempt = self.attempts.pop(number)
        self._repeat(attempt.shard, attempt.blocks, reason, text, now)

    def refused(self, number: int, reason: str, text: str, now: float) -> None:
        """The shard does not answer this ask, and would not if it were repeated in this layer."""
        attempt = self.attempts[number]
        self._barred.update((block, attempt.shard) for block in attempt.blocks)
        self.failed(number, reason, text, now)

    def busy(self, number: int, retry_s: float, text: str, now: float) -> None:
        """The shard may be asked again `retry_s` seconds later."""
        self._free_s[self.attempts[number].shard] = now + retry_s
        self.failed(number, "busy", text, now)

    def broken(self, number: int, reason: str, text: str) -> None:
        """The ask's computation would fail anywhere: its blocks are lost."""
        attempt = self.attempts.pop(number)
        for block in attempt.blocks:
            if self._open(block):
                self.lost[block] = Loss(attempt.shard, reason, text)

    def lose_all(self, reason: str, text: str) -> None:
        """The time is over: what is open is lost."""
        for block in self._blocks():
            self.lost[block] = Loss(self.holders[block][0], reason, text)

    def superfluous(self) -> list[Attempt[Call]]:
        """Remove and return the attempts whose blocks are all answered or lost."""
        done = [number for number, one in self.attempts.items() if not any(map(self._open, one.blocks))]
        return [self.attempts.pop(number) for number in done]

    def look(self, now: float) -> list[Ask]:
        """Whom to ask now. Blocks that nobody can be asked for any more are lost.

        To be called when `due_s` has come and when a link's state may have changed.
        """
        self.due_s = min((one.late_s for one in self.attempts.values() if not one.late), default=inf)
        blocks_of: dict[tuple[int, bool], list[int]] = {}
        for block in self._blocks():
            asked = [attempt for attempt in self.attempts.values() if block in attempt.blocks]
            shard = self._choice(block, asked, now)
            if shard is not None:
                blocks_of.setdefault((shard, bool(asked)), []).append(block)
            elif not asked and not self._wait(block, now):
                home = self.holders[block][0]
                self.lost[block] = self._last.get(block) or Loss(home, "eof", f"shard {home} is not connected")
        return [Ask(shard, blocks, hedge) for (shard, hedge), blocks in blocks_of.items()]

    def newly_late(self, now: float) -> list[Attempt[Call]]:
        """The attempts that are late by now, each once. Beyond the budget one has as much time again."""
        late = []
        for attempt in self.attempts.values():
            if not attempt.late and now >= attempt.late_s:
                alone = all(len(self.holders[block]) == 1 for block in attempt.blocks)
                if alone or self.budget.spend():
                    attempt.late = True
                    late.append(attempt)
                else:
                    attempt.late_s = now + (now - attempt.begun_s)
        return late

    def hopeless(self, now: float) -> set[int]:
        """The shards that have never beaten, and have not answered for `limit_s`."""
        old = [attempt.shard for attempt in self.attempts.values() if now - attempt.begun_s >= self.limit_s]
        return {shard for shard in old if self.reach.state(shard) is LinkState.PROVEN}

    def finish(self, now: float) -> None:
        """All blocks are answered or lost: note what failures have cost."""
        for shard, reason, at, blocks in self._faults:
            if any(block in self.answered_by for block in blocks):
                self.record.failed_over(reason, now - at, shard)

    def _late(self, blocks: Sequence[int]) -> int:
        """The shard that had been asked for these blocks before a hedge answered; -1 if it has failed since."""
        asked = (one.shard for one in self.attempts.values() if not set(blocks).isdisjoint(one.blocks))
        return next(asked, -1)

    def _open(self, block: int) -> bool:
        return block not in self.answered_by and block not in self.lost

    def _blocks(self) -> list[int]:
        return [block for block in range(len(self.holders)) if self._open(block)]

    def _repeat(self, shard: int, blocks: Sequence[int], reason: str, text: str, now: float) -> None:
        """Note why these blocks need somebody else, where nobody else has been asked already."""
        asked = {block for attempt in self.attempts.values() for block in attempt.blocks}
        alone = [block for block in blocks if self._open(block) and block not in asked]
        self._last |= dict.fromkeys(alone, Loss(shard, reason, text))
        if alone:
            self._faults.append((shard, reason, now, alone))
            self.due_s = -inf

    def _choice(self, block: int, asked: Sequence[Attempt[Call]], now: float) -> int | None:
        """Whom to ask for a block; None if nobody, or if those that were asked are not in doubt."""
        rank, prompt = self.reach.rank, [attempt.shard for attempt in asked if not attempt.late]
        if any(self.reach.state(shard) is not LinkState.SUSPECT for shard in prompt):
            return None
        # A suspect is doubled by a shard in a better state; one that is late by any other.
        below = min(map(rank, prompt), default=inf)
        tried = {attempt.shard for attempt in asked}
        free = [
            shard
            for shard in self.holders[block]
            if shard not in tried and rank(shard) < below and self._may_ask(block, shard, now)
        ]
        return min(free, key=rank, default=None)

    def _may_ask(self, block: int, shard: int, now: float) -> bool:
        reach = self.reach
        unbarred = (block, shard) not in self._barred and self._free_s.get(shard, now) <= now
        return unbarred and reach.available(shard) and reach.has_room(shard)

    def _wait(self, block: int, now: float) -> bool:
        """Whether the block may be asked of somebody later, who is busy; then `due_s` says when."""
        later = [
            shard for shard in self.holders[block] if (block, shard) not in self._barred and self.reach.available(shard)
        ]
        for shard in later:
            self.due_s = min(self.due_s, max(self._free_s.get(shard, now), now + FULL_SECONDS))
        return bool(later)

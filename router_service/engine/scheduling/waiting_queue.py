"""The queue of waiting sequences: by priority, fair between callers, first come first served within a caller.

Plain data: no tensors, no clock. Time is counted in admissions, that is calls of `pop`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from router_service.engine.scheduling.caller_counters import CallerCounters
from router_service.engine.scheduling.rising_heap import Rank, RisingHeap

# A level of priority waits for so many admissions of the next more urgent one, then gets one itself.
AGEING_ADMISSIONS = 16


class Waiting(Protocol):
    """A sequence that can wait; the first three never change, `pending` is read when it is queued."""

    @property
    def key(self) -> int:
        """Unique among the waiting ones."""

    @property
    def caller(self) -> str:
        """Whose it is."""

    @property
    def priority(self) -> int:
        """Lower runs first."""

    @property
    def pending(self) -> int:
        """Tokens to compute before its next token."""


S = TypeVar("S", bound=Waiting)


class WaitingQueue(Generic[S]):
    """Sequences that wait for admission. Operations take O(log n), amortized.

    The order: first the priority, lower values first. Within a priority the preempted ones (`push_front`), then the
    caller with the least counter, see `CallerCounters`; `charge` must be called for whatever is computed, for a prompt
    when it is scheduled and before the next `pop`. Within caller and priority, the order of arrival.

    No priority starves: a level that waits since admission n takes its turn as if it were due at n + `ageing` x its
    priority, and the earliest is next. So a sequence's level p is passed over at most (p - q) x `ageing` times plus
    once for each other level with waiting sequences, where q is the lowest priority among those.

    No caller starves: of two callers that have sequences of one priority waiting all the time, one is charged at most
    2 x c tokens more than the other, c being the most tokens charged between two calls of `pop`.
    """

    def __init__(self, ageing: int = AGEING_ADMISSIONS, callers: CallerCounters | None = None) -> None:
        self._callers = callers if callers is not None else CallerCounters()
        self._ageing = ageing
        self._admissions = 0
        self._levels: dict[int, _Level[S]] = {}
        self._turns: RisingHeap[int] = RisingHeap(self._turn)
        self._sequences: dict[int, tuple[S, int]] = {}
        self._waiting_of: dict[str, int] = {}
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[S]:
        """All sequences, in the order in which they were queued."""
        return (sequence for sequence, _ in self._sequences.values())

    def __contains__(self, key: int) -> bool:
        return key in self._sequences

    @property
    def tokens(self) -> int:
        """Pending tokens of all sequences, as of when each was queued."""
        return self._tokens

    def push(self, sequence: S) -> None:
        """Queue a new sequence behind those of its caller and priority.

        Raises:
            ValueError: its key is queued already.
        """
        self._enter(sequence).push(sequence)

    def push_front(self, sequence: S) -> None:
        """Queue a preempted sequence before all others of its priority.

        Raises:
            ValueError: its key is queued already.
        """
        self._enter(sequence).push_front(sequence)

    def peek(self) -> S | None:
        """Return the next sequence, None if none waits."""
        priority = self._turns.least()
        return None if priority is None else self._levels[priority].first()

    def pop(self) -> S:
        """Remove and return the next sequence.

        Raises:
            IndexError: none waits.
        """
        sequence = self.peek()
        if sequence is None:
            raise IndexError("pop from an empty queue")
        self._admissions += 1
        self._levels[sequence.priority].since = self._admissions
        self.remove(sequence.key)
        return sequence

    def remove(self, key: int) -> S | None:
        """Remove and return a sequence, None if it is not queued."""
        if key not in self._sequences:
            return None
        sequence, tokens = self._sequences.pop(key)
        self._tokens -= tokens
        level = self._levels[sequence.priority]
        level.remove(sequence)
        if level.empty:
            del self._levels[sequence.priority]
        self._waiting_of[sequence.caller] -= 1
        if not self._waiting_of[sequence.caller]:
            del self._waiting_of[sequence.caller]
            self._callers.deactivate(sequence.caller)
        return sequence

    def charge(self, caller: str, tokens: int) -> None:
        """Count tokens that were scheduled for the caller, of prompts and of answers."""
        self._callers.charge(caller, tokens)

    def clear(self) -> None:
        """Remove all sequences; what callers were charged is remembered."""
        for key in list(self._sequences):
            self.remove(key)

    def _enter(self, sequence: S) -> "_Level[S]":
        if sequence.key in self._sequences:
            raise ValueError(f"sequence {sequence.key} is queued already")
        self._sequences[sequence.key] = sequence, sequence.pending
        self._tokens += sequence.pending
        self._waiting_of[sequence.caller] = self._waiting_of.get(sequence.caller, 0) + 1
        self._callers.activate(sequence.caller)
        if sequence.priority not in self._levels:
            self._levels[sequence.priority] = _Level(self._callers, self._admissions)
            self._turns.add(sequence.priority)
        return self._levels[sequence.priority]

    def _turn(self, priority: int) -> Rank | None:
        level = self._levels.get(priority)
        return None if level is None else (level.since + self._ageing * priority, priority)


class _Level(Generic[S]):
    """The sequences of one priority. `since` is the admission at which it was served last, or became non-empty."""

    def __init__(self, callers: CallerCounters, since: int) -> None:
        self.since = since
        self._callers = callers
        self._resumed: OrderedDict[int, S] = OrderedDict()
        # Linked lists: a plain dict's first entry is slow to find after many removals in front of it.
        self._new: dict[str, OrderedDict[int, S]] = {}
        self._order: RisingHeap[str] = RisingHeap(self._rank)

    @property
    def empty(self) -> bool:
        return not self._resumed and not self._new

    def push(self, sequence: S) -> None:
        if sequence.caller not in self._new:
            self._new[sequence.caller] = OrderedDict()
            self._order.add(sequence.caller)
        self._new[sequence.caller][sequence.key] = sequence

    def push_front(self, sequence: S) -> None:
        self._resumed[sequence.key] = sequence
        self._resumed.move_to_end(sequence.key, last=False)

    def first(self) -> S:
        if self._resumed:
            return next(iter(self._resumed.values()))
        caller = self._order.least()
        assert caller is not None
        return next(iter(self._new[caller].values()))

    def remove(self, sequence: S) -> None:
        if self._resumed.pop(sequence.key, None) is not None:
            return
        of_caller = self._new[sequence.caller]
        del of_caller[sequence.key]
        if not of_caller:
            del self._new[sequence.caller]

    def _rank(self, caller: str) -> Rank | None:
        return (self._callers[caller],) if caller in self._new else None

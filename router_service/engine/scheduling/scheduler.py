"""Which tokens the next step computes: continuous batching (Yu et al. 2022, Orca) within a token budget.

Plain data: no tensors, no clock. A sequence takes blocks for all that it may ever need when it is admitted, so nothing
running can run out. Whole prompts for now, though `ScheduledSequence` already says where its tokens start.
"""

from collections import deque
from dataclasses import dataclass, field

from router_service.engine.scheduling.block_manager import BlockManager
from router_service.engine.scheduling.queue_bounds import QueueBounds
from router_service.engine.scheduling.queue_bounds import QueueFullError as QueueFullError


class NeverFitsError(ValueError):
    """A request that would not fit even if all others had ended."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """`token_budget` tokens per step, `max_sequences` running, `max_waiting` queued, `context` tokens per sequence.

    The queued ones hold at most `max_waiting_tokens` tokens; 0 does not bound them.
    """

    token_budget: int
    max_sequences: int
    max_waiting: int
    context: int
    max_waiting_tokens: int = 0

    def __post_init__(self) -> None:
        if self.token_budget < self.max_sequences:
            raise ValueError(
                f"token_budget {self.token_budget} is below max_sequences {self.max_sequences}: "
                "a step must have room for one token of each running sequence"
            )

    @property
    def prompt_limit(self) -> int:
        """The longest prompt that fits into a step beside `max_sequences - 1` decoding sequences."""
        return min(self.token_budget - self.max_sequences + 1, self.context - 1)


@dataclass(slots=True)
class Sequence:
    """A request as the scheduler sees it: its `tokens` so far, how many are `computed`, and how many there may be.

    `caller` is whose it is, for fairness between callers; of one caller's requests a lower `priority` runs first.
    """

    key: int
    tokens: list[int]
    max_length: int
    computed: int = 0
    block_table: list[int] = field(default_factory=list)
    stalled: bool = False
    caller: str = ""
    priority: int = 0

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`token_ids` at positions from `start` on, of the sequence `key` with the cache blocks `block_table`."""

    key: int
    token_ids: list[int]
    start: int
    block_table: list[int]


class Scheduler:
    """Admits sequences strictly in order of arrival, so that none starves."""

    def __init__(self, limits: SchedulerLimits, blocks: BlockManager) -> None:
        self.limits = limits
        self.blocks = blocks
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    @property
    def waiting(self) -> int:
        """Requests that have no blocks yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have blocks, stalled ones included."""
        return len(self._running)

    def has_work(self) -> bool:
        """Whether a sequence waits, or runs without being stalled."""
        return bool(self._waiting) or any(not sequence.stalled for sequence in self._running.values())

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            NeverFitsError: longer than the context, the prompt limit or the whole cache.
            QueueFullError: `max_waiting` wait already, not counting those for which there is a free place: a burst
                between two steps is no reason to refuse one. Or those that wait hold `max_waiting_tokens` tokens.
        """
        self._check_fits(sequence)
        bounds = QueueBounds(self.limits.max_waiting, self.limits.max_waiting_tokens)
        held = sum(len(waiting.tokens) for waiting in self._waiting)
        bounds.check(self._left_waiting, held, len(sequence.tokens))
        self._waiting.append(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """Choose a step: decoding sequences first, then prompts in order while budget and blocks last."""
        budget = self.limits.token_budget
        ready = [sequence for sequence in self._running.values() if not sequence.stalled]
        chosen = [sequence for sequence in ready if sequence.pending == 1][:budget]
        budget -= len(chosen)
        # Prompts that stalled: they were admitted before those that wait, and repeat the same step.
        for sequence in (sequence for sequence in ready if sequence.pending > 1):
            if sequence.pending <= budget:
                chosen.append(sequence)
                budget -= sequence.pending
        while (admitted := self._admit(budget)) is not None:
            chosen.append(admitted)
            budget -= admitted.pending
        return [_scheduled(sequence) for sequence in chosen]

    def advance(self, key: int, token: int) -> None:
        """Note that a step computed all of the sequence's tokens and drew `token`."""
        sequence = self._running[key]
        sequence.computed = len(sequence.tokens)
        sequence.tokens.append(token)

    def stall(self, key: int) -> None:
        """Leave the sequence out of steps until `resume`. It keeps its blocks, and its pending tokens stay pending."""
        self._running[key].stalled = True

    def resume(self) -> None:
        """Include all stalled sequences in steps again."""
        for sequence in self._running.values():
            sequence.stalled = False

    def remove(self, key: int) -> None:
        """Remove a running or waiting sequence and free its blocks; unknown keys are ignored."""
        if (sequence := self._running.pop(key, None)) is not None:
            self.blocks.release(sequence.block_table)
            return
        self._waiting = deque(sequence for sequence in self._waiting if sequence.key != key)

    def clear(self) -> None:
        """Remove all sequences and free all blocks."""
        self._running.clear()
        self._waiting.clear()
        self.blocks.clear()

    @property
    def _left_waiting(self) -> int:
        """Requests that will still wait once all free places are taken."""
        return max(0, len(self._waiting) - (self.limits.max_sequences - len(self._running)))

    def _check_fits(self, sequence: Sequence) -> None:
        limits, capacity = self.limits, self.blocks.total * self.blocks.block_size
        if len(sequence.tokens) > limits.prompt_limit:
            raise NeverFitsError(f"{len(sequence.tokens)} prompt tokens, the limit is {limits.prompt_limit}")
        if sequence.max_length > limits.context:
            raise NeverFitsError(f"prompt and max_tokens make {sequence.max_length}, the context is {limits.context}")
        if sequence.max_length > capacity:
            raise NeverFitsError(f"prompt and max_tokens make {sequence.max_length}, the KV cache holds {capacity}")

    def _admit(self, budget: int) -> Sequence | None:
        if not self._waiting or len(self._running) >= self.limits.max_sequences:
            return None
        if self._waiting[0].pending > budget:
            return None
        # All blocks that it may ever need: nothing is preempted, so a running sequence must never lack one.
        blocks = self.blocks.allocate(self._waiting[0].max_length)
        if blocks is None:
            return None
        sequence = self._waiting.popleft()
        sequence.block_table = blocks
        self._running[sequence.key] = sequence
        return sequence


def _scheduled(sequence: Sequence) -> ScheduledSequence:
    return ScheduledSequence(
        key=sequence.key,
        token_ids=sequence.tokens[sequence.computed :],
        start=sequence.computed,
        block_table=sequence.block_table,
    )

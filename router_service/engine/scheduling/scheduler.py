"""Which tokens the next step computes: continuous batching (Yu et al. 2022, Orca) with chunked prefill.

Every sequence that decodes takes one token of a step; what is left of the step's budget goes to prompts in the order of
arrival, in chunks (Agrawal et al. 2024, Sarathi-Serve). A sequence takes blocks for the tokens of its next step only.
When they run out, the newest sequence is preempted: its blocks are released, it waits again before all others, and its
tokens are computed again (vLLM, Kwon et al. 2023, section 4.5). The oldest is never preempted, and alone it fits, so
that every step completes something. Plain data: no tensors, no clock.
"""

from collections.abc import Iterable

from router_service.engine.scheduling.block_manager import BlockManager
from router_service.engine.scheduling.limits import NeverFitsError, SchedulerLimits
from router_service.engine.scheduling.prefill_budget import PrefillBudget
from router_service.engine.scheduling.queue_bounds import QueueBounds
from router_service.engine.scheduling.sequence import ScheduledSequence, Sequence
from router_service.engine.scheduling.step_cost import StepShape
from router_service.engine.scheduling.waiting_queue import WaitingQueue


class Scheduler:
    """Chooses each step's sequences. Their numbers of tokens follow `prefill`, the blocks come from `blocks`.

    `preemptions` counts how often a sequence was preempted; `cache_queries` the tokens of admitted sequences that were
    looked up in the prefix cache, of which `cache_hits` were found.
    """

    def __init__(self, limits: SchedulerLimits, blocks: BlockManager, prefill: PrefillBudget | None = None) -> None:
        self.limits = limits
        self.blocks = blocks
        self.prefill = prefill or PrefillBudget()
        self.preemptions = self.cache_queries = self.cache_hits = 0
        self._waiting: WaitingQueue[Sequence] = WaitingQueue()
        self._bounds = QueueBounds(limits.max_waiting, limits.max_waiting_tokens)
        self._running: dict[int, Sequence] = {}
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Requests that do not run, preempted ones included."""
        return len(self._waiting)

    @property
    def queue(self) -> Iterable[Sequence]:
        """The sequences that wait."""
        return iter(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have blocks, stalled ones included."""
        return len(self._running)

    @property
    def longest(self) -> int:
        """The most tokens, prompt and answer, that a sequence may have."""
        return min(self.limits.context, self.blocks.capacity)

    def has_work(self) -> bool:
        """Whether a sequence waits, or runs without being stalled."""
        return bool(self._waiting) or any(not sequence.stalled for sequence in self._running.values())

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            NeverFitsError: longer than the context or the whole cache.
            QueueFullError: `max_waiting` wait already, not counting those for which there is a free place: a burst
                between two steps is no reason to refuse one. Or those that wait hold `max_waiting_tokens` tokens.
        """
        self._check_fits(sequence)
        self._bounds.check(self._left_waiting, self._waiting.tokens, len(sequence.tokens))
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._waiting.push(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """Choose a step: one token of each decoding sequence, then chunks of prompts while budget and blocks last."""
        preemptions = self.preemptions
        ready = sorted(
            (sequence for sequence in self._running.values() if not sequence.stalled), key=lambda one: one.arrival
        )
        chosen: list[ScheduledSequence] = []
        budget = self._continue_all(ready, self._prefill_tokens(ready), chosen)
        if not chosen:
            # Those that decode lack blocks, so that no stream waits for what prompts take.
            budget = self._continue_all(ready, self.limits.token_budget, chosen)
        # What was preempted just now would take the blocks that it was preempted for.
        if self.preemptions == preemptions:
            self._admit_all(budget, chosen)
        return chosen

    def advance(self, item: ScheduledSequence) -> None:
        """Note that a step computed a scheduled part of a sequence, and lost none of it."""
        self.blocks.advance(self._running[item.key], len(item.token_ids))

    def append(self, key: int, token: int) -> None:
        """Append the token that was drawn after a sequence's last one."""
        sequence = self._running[key]
        sequence.tokens.append(token)
        sequence.decoding = True

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
            self.blocks.release(sequence)
            return
        self._waiting.remove(key)

    def distrust(self, key: int) -> None:
        """Let nothing that a running sequence has written be found by others; unknown keys are ignored."""
        if (sequence := self._running.get(key)) is not None:
            self.blocks.forget(sequence)

    def taint(self, key: int, position: int) -> None:
        """Note, before `advance`, that a running sequence's cache is not the whole model's from `position` on.

        Nobody else finds it there, and what the sequence itself computes by it is tainted too, until it is computed
        again.
        """
        sequence = self._running[key]
        sequence.tainted = position if sequence.tainted is None else min(sequence.tainted, position)

    def clear(self) -> None:
        """Remove all sequences, free all blocks, and forget what is written in them."""
        self._running.clear()
        self._waiting.clear()
        self.blocks.clear()

    @property
    def _left_waiting(self) -> int:
        """Requests that will still wait once all free places are taken."""
        return max(0, len(self._waiting) - (self.limits.max_sequences - len(self._running)))

    def _check_fits(self, sequence: Sequence) -> None:
        if sequence.max_length > self.limits.context:
            raise NeverFitsError(
                f"prompt and max_tokens make {sequence.max_length}, the context is {self.limits.context}"
            )
        if sequence.max_length > self.blocks.capacity:
            raise NeverFitsError(
                f"prompt and max_tokens make {sequence.max_length}, the KV cache holds {self.blocks.capacity}"
            )

    def _prefill_tokens(self, ready: list[Sequence]) -> int:
        """Tokens of prompts in this step, beside the sequences that decode."""
        # With no prompt to read, the estimate of what steps cost need not be fitted again.
        if not self._waiting and all(sequence.decoding for sequence in ready):
            return 0
        contexts = [len(sequence.tokens) for sequence in ready if sequence.decoding]
        first = next((sequence.computed for sequence in ready if not sequence.decoding), 0)
        wanted = self.prefill.tokens(StepShape(decode_rows=len(contexts), decode_context=sum(contexts)), first)
        return min(wanted, self.limits.token_budget - len(contexts))

    def _continue_all(self, ready: list[Sequence], budget: int, chosen: list[ScheduledSequence]) -> int:
        """Schedule running sequences, the oldest first; return what is left of the budget for prompts."""
        for sequence in ready:
            budget -= self._continue(sequence, budget, chosen)
        return budget

    def _continue(self, sequence: Sequence, budget: int, chosen: list[ScheduledSequence]) -> int:
        """Schedule a running sequence if it can have blocks; return the tokens of prompts that it takes."""
        if sequence.key not in self._running:  # preempted for an older one
            return 0
        wanted = 1 if sequence.decoding else min(sequence.pending, budget)
        if not (tokens := self._make_room(sequence, wanted)):
            return 0
        self._choose(sequence, tokens, chosen)
        return 0 if sequence.decoding else tokens

    def _make_room(self, sequence: Sequence, wanted: int) -> int:
        """Return how many of the `wanted` tokens can have blocks; newer sequences are preempted for the first one."""
        tokens = self.blocks.fits(sequence, wanted)
        while wanted and not tokens:
            newest = max(self._running.values(), key=lambda one: one.arrival)
            if newest is sequence:
                break
            self._preempt(newest)
            tokens = self.blocks.fits(sequence, wanted)
        return tokens

    def _preempt(self, sequence: Sequence) -> None:
        del self._running[sequence.key]
        self.blocks.release(sequence)
        sequence.decoding = sequence.stalled = False
        self._waiting.push_front(sequence)
        self.preemptions += 1

    def _admit_all(self, budget: int, chosen: list[ScheduledSequence]) -> None:
        """Admit waiting sequences in the queue's order, as long as the next one has a place, blocks and budget."""
        if not self._waiting:
            return
        needs = [self.blocks.outstanding(sequence) for sequence in self._running.values()]
        promised = [sum(group) for group in zip(*needs, strict=True)] or [0] * len(self.blocks.pools)
        while budget > 0 and len(self._running) < self.limits.max_sequences:
            sequence = self._waiting.peek()
            if sequence is None or not self.blocks.has_room(sequence, found := self.blocks.find(sequence), promised):
                return
            self._admit(self._waiting.pop(), found)
            tokens = self.blocks.fits(sequence, min(sequence.pending, budget))
            if tokens:
                self._choose(sequence, tokens, chosen)
                budget -= tokens
            promised = [a + b for a, b in zip(promised, self.blocks.outstanding(sequence), strict=True)]

    def _admit(self, sequence: Sequence, found: int) -> None:
        self._running[sequence.key] = sequence
        self.blocks.adopt(sequence, found)
        if sequence.cached is None:
            sequence.cached = sequence.computed
            self.cache_hits += sequence.computed
            if self.blocks.prefix_caching:
                self.cache_queries += len(sequence.tokens)

    def _choose(self, sequence: Sequence, tokens: int, chosen: list[ScheduledSequence]) -> None:
        self.blocks.extend(sequence, tokens)
        self._waiting.charge(sequence.caller, tokens)
        start, end = sequence.computed, sequence.computed + tokens
        chosen.append(
            ScheduledSequence(
                key=sequence.key,
                token_ids=sequence.tokens[start:end],
                start=start,
                block_tables=sequence.tables,
                wants_logits=end == len(sequence.tokens),
                decoding=sequence.decoding,
            )
        )

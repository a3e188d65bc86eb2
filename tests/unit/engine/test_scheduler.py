"""The scheduler and the block manager under any sequence of events, against the promises they make."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router_service.engine.scheduling.block_manager import BlockManager
from router_service.engine.scheduling.scheduler import (
    NeverFitsError,
    QueueFullError,
    ScheduledSequence,
    Scheduler,
    SchedulerLimits,
)
from router_service.engine.scheduling.scheduler import Sequence as Job


def scheduler(
    budget: int = 20, sequences: int = 4, waiting: int = 3, context: int = 24, blocks: int = 9, size: int = 4
) -> Scheduler:
    return Scheduler(SchedulerLimits(budget, sequences, waiting, context), BlockManager(blocks, size))


class Serving(RuleBasedStateMachine):
    """Requests come, are stepped, stalled, resumed and cancelled in any order; the model is what we know of each."""

    @initialize(
        sequences=st.integers(1, 4), spare=st.integers(0, 12), blocks=st.integers(1, 10), size=st.integers(1, 5)
    )
    def start(self, sequences: int, spare: int, blocks: int, size: int) -> None:
        self.scheduler = scheduler(sequences + spare, sequences, 3, 24, blocks, size)
        self.jobs: dict[int, Job] = {}
        self.waiting: list[int] = []
        self.running: list[int] = []
        self.stalled: set[int] = set()
        self.next_key = 0

    @rule(prompt=st.integers(1, 26), more=st.integers(1, 12))
    def submit(self, prompt: int, more: int) -> None:
        limits, blocks = self.scheduler.limits, self.scheduler.blocks
        job = Job(self.next_key, list(range(prompt)), prompt + more)
        self.next_key += 1
        fits = prompt <= limits.prompt_limit and prompt + more <= min(24, blocks.total * blocks.block_size)
        if not fits:
            with pytest.raises(NeverFitsError, match=r"limit is|context is|cache holds"):
                self.scheduler.submit(job)
        elif len(self.waiting) + len(self.running) >= limits.max_waiting + limits.max_sequences:
            with pytest.raises(QueueFullError):
                self.scheduler.submit(job)
        else:
            self.scheduler.submit(job)
            self.jobs[job.key] = job
            self.waiting.append(job.key)

    @rule(fail=st.sets(st.integers(0, 3)))
    def step(self, fail: set[int]) -> None:
        """The scheduled ones whose place in the step is in `fail` lose a shard, the others draw a token."""
        chosen = self.scheduler.schedule()
        self.check_step(chosen)
        for place, item in enumerate(chosen):
            if place in fail:
                self.scheduler.stall(item.key)
                self.stalled.add(item.key)
            else:
                self.scheduler.advance(item.key, 7)
                if len(self.jobs[item.key].tokens) == self.jobs[item.key].max_length:
                    self.forget(item.key)

    def check_step(self, chosen: list[ScheduledSequence]) -> None:
        keys = [item.key for item in chosen]
        admitted = [key for key in keys if key in self.waiting]
        assert admitted == self.waiting[: len(admitted)], "nobody overtakes"
        self.waiting = self.waiting[len(admitted) :]
        self.running += admitted
        assert len(set(keys)) == len(keys)
        assert not self.stalled & set(keys)
        assert sum(len(item.token_ids) for item in chosen) <= self.scheduler.limits.token_budget
        for item in chosen:
            job = self.jobs[item.key]
            assert item.token_ids == job.tokens[item.start :]
            assert len(item.block_tables[0]) * self.scheduler.blocks.block_size >= job.max_length
        self.check_nobody_starves(keys)

    def check_nobody_starves(self, keys: list[int]) -> None:
        ready = [key for key in self.running if key not in self.stalled]
        prompts = [key for key in ready if self.jobs[key].pending > 1]
        assert {key for key in ready if self.jobs[key].pending == 1} <= set(keys), "who decodes is in every step"
        assert not prompts or prompts[0] in keys, "the first of the prompts is in the step"
        if not self.running and self.waiting:
            pytest.fail("nobody runs and yet the first who waits is left to wait")

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        self.forget(sorted(self.jobs)[pick % len(self.jobs)])

    @rule()
    def cancel_unknown(self) -> None:
        self.scheduler.remove(10**9)

    @rule()
    def resume(self) -> None:
        self.scheduler.resume()
        self.stalled.clear()

    def forget(self, key: int) -> None:
        self.scheduler.remove(key)
        del self.jobs[key]
        self.waiting = [other for other in self.waiting if other != key]
        self.running = [other for other in self.running if other != key]
        self.stalled.discard(key)

    @invariant()
    def blocks_have_one_owner(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        blocks, limits = self.scheduler.blocks, self.scheduler.limits
        owned = Counter(block for key in self.running for block in self.jobs[key].block_table)
        assert set(owned.values()) <= {1}
        assert set(owned) <= set(range(blocks.total))
        assert blocks.used == len(owned)
        assert (self.scheduler.running, self.scheduler.waiting) == (len(self.running), len(self.waiting))
        assert len(self.running) <= limits.max_sequences
        assert self.scheduler.has_work() == bool(self.waiting or set(self.running) - self.stalled)

    def teardown(self) -> None:
        """Whatever happened, all who are left end, in a bounded number of steps, and no block is lost."""
        if not hasattr(self, "scheduler"):
            return
        self.resume()
        for _ in range(24 * (len(self.jobs) + 1)):
            self.step(set())
        assert not self.jobs
        assert self.scheduler.blocks.used == 0


def test_what_comes_between_two_steps_is_refused_only_beyond_places_and_queue() -> None:
    queue = scheduler(sequences=2, waiting=3)
    for key in range(5):
        queue.submit(Job(key, [1], 4))
    with pytest.raises(QueueFullError, match="3 requests wait already, the limit is 3"):
        queue.submit(Job(5, [1], 4))


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 40), st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_block_manager(total: int, size: int, actions: list[tuple[bool, int]]) -> None:
    manager, owned = BlockManager(total, size), []
    for take, number in actions:
        if take:
            free = total - sum(map(len, owned))
            blocks = manager.allocate(number)
            assert (blocks is None) == (-(-number // size) > free)
            if blocks is not None:
                assert len(blocks) == manager.blocks_for(number) == -(-number // size)
                owned.append(blocks)
        elif owned:
            manager.release(owned.pop(number % len(owned)))
        flat = [block for blocks in owned for block in blocks]
        assert len(set(flat)) == len(flat) == manager.used
        assert all(0 <= block < total for block in flat)
    for blocks in owned:
        manager.release(blocks)
    assert manager.used == 0
    assert manager.allocate(total * size) == list(range(total)), "an empty cache gives neighbours"


def test_blocks_are_neighbours_where_a_run_is_long_enough() -> None:
    manager = BlockManager(8, 1)
    first, second, third = (manager.allocate(n) for n in (2, 3, 3))
    assert first is not None
    assert second is not None
    assert third is not None
    manager.release(first)
    manager.release(third)
    assert manager.allocate(3) == [5, 6, 7]
    assert manager.allocate(2) == [0, 1]
    assert manager.allocate(1) is None


def test_a_block_is_not_released_twice() -> None:
    manager = BlockManager(2, 1)
    blocks = manager.allocate(1)
    assert blocks is not None
    manager.release(blocks)
    with pytest.raises(ValueError, match="nobody owns it"):
        manager.release(blocks)


def test_a_thousand_sharers_own_a_block_until_the_last_one_lets_go() -> None:
    manager = BlockManager(3, 1)
    blocks = manager.allocate(2)
    assert blocks is not None
    for _ in range(999):
        manager.share(blocks)
    for _ in range(999):
        manager.release(blocks)
        assert manager.used == 2
    assert manager.allocate(2) is None, "what has an owner left is not handed out"
    manager.release(blocks)
    assert manager.used == 0
    assert manager.allocate(3) == [0, 1, 2]


def test_a_block_without_an_owner_is_not_shared() -> None:
    manager = BlockManager(2, 1)
    blocks = manager.allocate(1)
    assert blocks is not None
    with pytest.raises(ValueError, match="block 1 is to be shared but nobody owns it"):
        manager.share([*blocks, 1])
    manager.release(blocks)
    assert manager.used == 0, "a refused share leaves no owner behind"


def test_limits_must_leave_room_to_decode() -> None:
    with pytest.raises(ValueError, match="below max_sequences"):
        SchedulerLimits(3, 4, 1, 8)
    with pytest.raises(ValueError, match="at least one block"):
        BlockManager(0, 16)


def test_a_stalled_request_keeps_its_blocks_and_repeats_its_step() -> None:
    plan = scheduler()
    plan.submit(Job(1, [1, 2, 3], 8))
    first = plan.schedule()
    plan.stall(1)
    assert plan.schedule() == []
    assert plan.blocks.used == 2
    plan.resume()
    assert plan.schedule() == first

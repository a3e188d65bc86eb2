"""The scheduler, the block manager and the prefix cache under any sequence of events, against their promises."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router_service.engine.scheduling.block_manager import BlockManager, GroupSize
from router_service.engine.scheduling.limits import NeverFitsError, SchedulerLimits
from router_service.engine.scheduling.prefill_budget import UNLIMITED
from router_service.engine.scheduling.queue_bounds import QueueFullError
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.scheduling.sequence import GIVEN_BACK, ScheduledSequence
from router_service.engine.scheduling.sequence import Sequence as Job
from router_service.engine.scheduling.step_cost import StepShape
from router_service.models.view import WHOLE_CONTEXT, View

CONTEXT = 24
VIEWS = (
    (WHOLE_CONTEXT,),
    (View(window=5),),
    (WHOLE_CONTEXT, View(window=3)),
    (View(chunk=6), WHOLE_CONTEXT),
)


class Chunks:
    """A prefill budget that the test sets."""

    most = 1 << 30
    asked = 0

    def tokens(self, decoding: StepShape, _: int) -> int:
        self.asked += 1
        return self.most if decoding.decode_rows else UNLIMITED


def scheduler(
    budget: int = 20,
    sequences: int = 4,
    waiting: int = 3,
    blocks: int = 9,
    size: int = 4,
    views: tuple[View, ...] = (WHOLE_CONTEXT,),
    prefix_caching: bool = True,
) -> Scheduler:
    groups = [GroupSize(blocks, view) for view in views]
    chunks: object = Chunks()
    manager = BlockManager(groups, size, prefix_caching)
    return Scheduler(SchedulerLimits(budget, sequences, waiting, CONTEXT), manager, chunks)


class Serving(RuleBasedStateMachine):
    """Requests come, are stepped, stalled, resumed and cancelled in any order; `cells` is what their steps wrote.

    A cell of the cache is (group, block, offset); in it is the history of tokens up to the one that was written.
    """

    @initialize(
        sequences=st.integers(1, 4),
        spare=st.integers(0, 12),
        blocks=st.integers(1, 10),
        size=st.integers(1, 5),
        views=st.sampled_from(VIEWS),
        caching=st.booleans(),
    )
    def start(self, sequences: int, spare: int, blocks: int, size: int, views: tuple[View, ...], caching: bool) -> None:
        self.scheduler = scheduler(sequences + spare, sequences, 3, blocks, size, views, caching)
        self.jobs: dict[int, Job] = {}
        self.stalled: set[int] = set()
        self.cells: dict[tuple[int, int, int], tuple[bytes, tuple[int, ...]]] = {}
        self.next_key = 0

    @rule(chunk=st.sampled_from([0, 1, 2, 3, 7, 1 << 30]))
    def set_chunk(self, chunk: int) -> None:
        self.scheduler.prefill.most = chunk

    @rule(
        prompt=st.integers(1, 26),
        more=st.integers(1, 12),
        like=st.integers(0, 2),
        who=st.tuples(st.sampled_from("ab"), st.integers(-1, 1)),
        salt=st.sampled_from([b"", b"x"]),
        reusable=st.sampled_from([None, None, 0, 7]),
    )
    def submit(
        self, prompt: int, more: int, like: int, who: tuple[str, int], salt: bytes, reusable: int | None
    ) -> None:
        """Prompts are beginnings of three texts, so that many share one."""
        tokens = [like * (at >= 8) for at in range(prompt)]
        job = Job(self.next_key, tokens, prompt + more, salt=salt, reusable=reusable)
        job.caller, job.priority = who
        self.next_key += 1
        limits = self.scheduler.limits
        if prompt + more > self.scheduler.longest:
            with pytest.raises(NeverFitsError, match=r"context is|cache holds"):
                self.scheduler.submit(job)
        elif len(self.jobs) >= limits.max_waiting + limits.max_sequences:
            with pytest.raises(QueueFullError):
                self.scheduler.submit(job)
        else:
            self.scheduler.submit(job)
            self.jobs[job.key] = job

    @rule(fail=st.sets(st.integers(0, 3)))
    def step(self, fail: set[int]) -> None:
        """The scheduled ones whose place in the step is in `fail` lose a shard, the others go on."""
        chosen = self.scheduler.schedule()
        self.check_step(chosen)
        self.write(chosen)
        for place, item in enumerate(chosen):
            self.check_reads(item)
            if place in fail:
                self.spoil(item)
                self.scheduler.stall(item.key)
                self.stalled.add(item.key)
            else:
                self.scheduler.advance(item)
                if item.wants_logits:
                    self.draw(item.key)

    def draw(self, key: int) -> None:
        self.scheduler.append(key, 7)
        if len(self.jobs[key].tokens) == self.jobs[key].max_length:
            self.forget(key)

    def write(self, chosen: list[ScheduledSequence]) -> None:
        """What is written in this step; nobody else may read these cells as they were before."""
        for item in chosen:
            for position in range(item.start, item.start + len(item.token_ids)):
                for cell in self.cells_of(item, position):
                    assert cell[1] != GIVEN_BACK
                    self.cells[cell] = self.history(item.key, position)

    def spoil(self, item: ScheduledSequence) -> None:
        """A step that lost tokens has written nonsense, which nobody may ever read."""
        for position in range(item.start, item.start + len(item.token_ids)):
            for cell in self.cells_of(item, position):
                self.cells[cell] = (b"nonsense", ())

    def check_reads(self, item: ScheduledSequence) -> None:
        """Each position that a token attends to holds that position of this very text."""
        for position in range(item.start, item.start + len(item.token_ids)):
            for group, view in enumerate(self.scheduler.blocks.views):
                for seen in range(view.first_seen(position), position + 1):
                    cell = self.cells_of(item, seen)[group]
                    assert cell[1] != GIVEN_BACK
                    assert self.cells[cell] == self.history(item.key, seen)

    def cells_of(self, item: ScheduledSequence, position: int) -> list[tuple[int, int, int]]:
        size = self.scheduler.blocks.block_size
        return [(group, table[position // size], position % size) for group, table in enumerate(item.block_tables)]

    def history(self, key: int, position: int) -> tuple[bytes, tuple[int, ...]]:
        job = self.jobs[key]
        return job.salt, tuple(job.tokens[: position + 1])

    def check_step(self, chosen: list[ScheduledSequence]) -> None:
        keys = [item.key for item in chosen]
        assert len(set(keys)) == len(keys)
        assert sum(len(item.token_ids) for item in chosen) <= self.scheduler.limits.token_budget
        for item in chosen:
            job = self.jobs[item.key]
            assert not job.stalled
            assert item.token_ids == job.tokens[item.start : item.start + len(item.token_ids)]
            assert len(item.token_ids) >= 1
            assert item.wants_logits == (item.start + len(item.token_ids) == len(job.tokens))
            assert not item.decoding or len(item.token_ids) == 1
        self.stalled = {key for key in self.stalled if self.jobs[key].stalled}
        self.check_progress(keys)

    def check_progress(self, keys: list[int]) -> None:
        """Unless stalled ones hold the blocks, the oldest that runs is in each step, and somebody runs."""
        running = sorted((job for job in self.jobs.values() if job.tables), key=lambda job: job.arrival)
        if self.jobs and not self.stalled:
            assert keys
            assert running[0].key in keys or not self.scheduler.prefill.most

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        self.forget(sorted(self.jobs)[pick % len(self.jobs)])

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0))
    def distrust(self, pick: int) -> None:
        self.scheduler.distrust(sorted(self.jobs)[pick % len(self.jobs)])

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
        self.stalled.discard(key)

    @invariant()
    def references_are_right(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        running = [job for job in self.jobs.values() if job.tables]
        for group, pool in enumerate(self.scheduler.blocks.pools):
            owned = Counter(block for job in running for block in job.tables[group] if block != GIVEN_BACK)
            assert set(owned) <= set(range(pool.total))
            assert pool.used == len(owned)
            assert all(pool.owners(block) == owned[block] for block in range(pool.total))

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        assert self.scheduler.running + self.scheduler.waiting == len(self.jobs)
        assert self.scheduler.running <= self.scheduler.limits.max_sequences
        stalled = {key for key in self.jobs if self.jobs[key].stalled}
        assert self.scheduler.has_work() == bool(set(self.jobs) - stalled)
        assert self.scheduler.cache_hits <= self.scheduler.cache_queries

    def teardown(self) -> None:
        """Whatever happened, all who are left end, in a bounded number of steps, and no block is lost."""
        if not hasattr(self, "scheduler"):
            return
        self.resume()
        self.set_chunk(1 << 30)
        for _ in range(3 * CONTEXT * (len(self.jobs) + 1)):
            self.step(set())
        assert not self.jobs
        assert [pool.used for pool in self.scheduler.blocks.pools] == [0] * len(self.scheduler.blocks.pools)


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def run(plan: Scheduler, chosen: list[ScheduledSequence]) -> None:
    """Complete a step; each sequence at its end draws a 7."""
    for item in chosen:
        plan.advance(item)
        if item.wants_logits:
            plan.append(item.key, 7)


def test_what_comes_between_two_steps_is_refused_only_beyond_places_and_queue() -> None:
    queue = scheduler(sequences=2, waiting=3)
    for key in range(5):
        queue.submit(Job(key, [1], 4))
    with pytest.raises(QueueFullError, match="3 requests wait already, the limit is 3"):
        queue.submit(Job(5, [1], 4))


def test_a_prompt_is_read_in_chunks_beside_one_that_decodes() -> None:
    plan = scheduler(budget=6, sequences=2)
    plan.submit(Job(1, [1], 20))
    run(plan, plan.schedule())
    plan.submit(Job(2, list(range(12)), 14))
    plan.prefill.most = 5
    parts = []
    for _ in range(3):
        chosen = plan.schedule()
        parts.append([(item.key, item.start, len(item.token_ids), item.wants_logits) for item in chosen])
        run(plan, chosen)
    assert parts == [
        [(1, 1, 1, True), (2, 0, 5, False)],
        [(1, 2, 1, True), (2, 5, 5, False)],
        [(1, 3, 1, True), (2, 10, 2, True)],
    ]


def test_the_cost_of_steps_is_asked_for_only_when_there_is_a_prompt_to_read() -> None:
    plan = scheduler(budget=6, sequences=2)
    plan.submit(Job(1, [1], 20))
    run(plan, plan.schedule())
    asked = plan.prefill.asked
    for _ in range(3):
        run(plan, plan.schedule())
    assert plan.prefill.asked == asked
    plan.submit(Job(2, list(range(12)), 14))
    plan.prefill.most = 5
    run(plan, plan.schedule())
    run(plan, plan.schedule())
    assert plan.prefill.asked == asked + 2


def test_the_newest_is_preempted_and_comes_back_from_the_cache() -> None:
    plan = scheduler(sequences=2, blocks=5, size=2)
    plan.submit(Job(1, [1, 1, 1], 10))
    plan.submit(Job(2, [2, 2, 2], 10))
    while plan.preemptions == 0:
        run(plan, plan.schedule())
    assert (plan.running, plan.waiting) == (1, 1)
    plan.remove(1)
    (again,) = plan.schedule()
    assert (again.key, again.decoding) == (2, False)
    assert again.start > 0, "part of what it had written was still there"
    assert plan.cache_hits == 0, "the metric is of first admissions"


def test_a_beginning_is_found_unless_the_salt_differs() -> None:
    plan = scheduler(blocks=9, size=4)
    for key, salt, found in ((1, b"", None), (2, b"", 8), (3, b"other", 0)):
        job = Job(key, [1, 2, 3, 4, 5, 6, 7, 8], 12, salt=salt)
        plan.submit(job)
        run(plan, plan.schedule())
        plan.remove(key)
        assert job.cached == {None: 0, 8: 4, 0: 0}[found]
    assert (plan.cache_queries, plan.cache_hits) == (24, 4)


@pytest.mark.parametrize("views", VIEWS)
def test_without_prefix_caching_nothing_is_noted_or_found(views: tuple[View, ...]) -> None:
    plan = scheduler(blocks=9, size=4, views=views, prefix_caching=False)
    for key in (1, 2):
        job = Job(key, [1, 2, 3, 4, 5, 6, 7, 8], 12)
        plan.submit(job)
        run(plan, plan.schedule())
        assert not any(pool.blocks for pool in plan.blocks.pools), "while it has an owner"
        plan.remove(key)
        assert job.cached == 0
    assert (plan.cache_queries, plan.cache_hits) == (0, 0)
    assert plan.blocks.cached_tokens == 0
    assert all(pool.free == pool.total for pool in plan.blocks.pools)


def test_without_prefix_caching_a_preempted_sequence_is_computed_again() -> None:
    plan = scheduler(sequences=2, blocks=5, size=2, prefix_caching=False)
    plan.submit(Job(1, [1, 1, 1], 10))
    plan.submit(Job(2, [2, 2, 2], 10))
    while plan.preemptions == 0:
        run(plan, plan.schedule())
    plan.remove(1)
    (again,) = plan.schedule()
    assert (again.key, again.start) == (2, 0)


def test_the_longest_unused_beginning_goes_first() -> None:
    plan = scheduler(blocks=4, size=4)
    for key, first in ((1, 1), (2, 2), (3, 3)):
        plan.submit(Job(key, [first] * 5, 6))
        run(plan, plan.schedule())
        plan.remove(key)
    cached = []
    for key, first in ((4, 3), (5, 2)):
        job = Job(key, [first] * 5, 6)
        plan.submit(job)
        run(plan, plan.schedule())
        plan.remove(key)
        cached.append(job.cached)
    assert cached == [4, 4]
    plan.submit(Job(6, [9] * 13, 14))
    run(plan, plan.schedule())
    plan.remove(6)
    job = Job(7, [2] * 5, 6)
    plan.submit(job)
    plan.schedule()
    assert job.cached == 0, "all blocks were needed"


def test_limits_must_leave_room_to_decode() -> None:
    with pytest.raises(ValueError, match="below max_sequences"):
        SchedulerLimits(3, 4, 1, 8)
    with pytest.raises(ValueError, match="at least one block"):
        BlockManager([GroupSize(0)], 16)
    with pytest.raises(ValueError, match="at least one token"):
        BlockManager([GroupSize(1)], 0)


def test_a_stalled_request_keeps_its_blocks_and_repeats_its_step() -> None:
    plan = scheduler()
    plan.submit(Job(1, [1, 2, 3], 8))
    first = plan.schedule()
    plan.stall(1)
    assert plan.schedule() == []
    assert plan.blocks.fullest.used == 1
    plan.resume()
    assert plan.schedule() == first


def test_a_step_without_prompts_is_not_an_empty_one() -> None:
    """The only stream that decodes lacks a block and is the newest: the prompt reads on, whatever the budget says."""
    plan = scheduler(blocks=10, size=1, budget=3, sequences=2)
    plan.submit(Job(1, [1] * 6, 8))
    plan.submit(Job(2, [2], 10, priority=-1))  # admitted first, though it came last
    run(plan, plan.schedule())
    plan.prefill.most = 0
    read = 0
    while not read:
        chosen = plan.schedule()
        assert chosen
        run(plan, chosen)
        read = sum(len(item.token_ids) for item in chosen if item.key == 1)

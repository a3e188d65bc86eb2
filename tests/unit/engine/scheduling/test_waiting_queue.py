"""The order of the waiting queue under any sequence of events, against a plain model and the promised bounds."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router_service.engine.scheduling.caller_counters import CallerCounters
from router_service.engine.scheduling.waiting_queue import AGEING_ADMISSIONS, WaitingQueue

CALLERS = st.sampled_from(["a", "b", "c"])
PRIORITIES = st.integers(-1, 2)
AGEING = 3


@dataclass(frozen=True)
class Job:
    key: int
    caller: str = ""
    priority: int = 0
    pending: int = 1


class Queueing(RuleBasedStateMachine):
    """The model keeps lists and looks through all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: WaitingQueue[Job] = WaitingQueue(AGEING)
        self.keys = count()
        self.resumed: list[Job] = []
        self.new: list[Job] = []
        self.counters: dict[str, int] = defaultdict(int)
        self.floor = 0
        self.admissions = 0
        self.since: dict[int, int] = {}

    @property
    def jobs(self) -> list[Job]:
        return self.resumed + self.new

    @rule(caller=CALLERS, priority=PRIORITIES, pending=st.integers(1, 9), preempted=st.booleans())
    def push(self, caller: str, priority: int, pending: int, preempted: bool) -> None:
        job = Job(next(self.keys), caller, priority, pending)
        active = {other.caller for other in self.jobs}
        if caller not in active:
            self.counters[caller] = max(self.counters[caller], self.least())
        if priority not in {other.priority for other in self.jobs}:
            self.since[priority] = self.admissions
        if preempted:
            self.queue.push_front(job)
            self.resumed.insert(0, job)
        else:
            self.queue.push(job)
            self.new.append(job)

    @precondition(lambda self: self.jobs)
    @rule(tokens=st.integers(0, 20))
    def pop(self, tokens: int) -> None:
        expected = self.level()
        next_up = self.queue.peek()
        job = self.queue.pop()
        assert job is next_up
        assert job.priority == expected
        self.check_choice(job)
        self.admissions += 1
        self.since[job.priority] = self.admissions
        self.drop(job)
        self.charge(job.caller, tokens)

    def check_choice(self, job: Job) -> None:
        if resumed := [other for other in self.resumed if other.priority == job.priority]:
            assert job is resumed[0], "preempted ones come first, the last preempted before the others"
            return
        rivals = [other for other in self.new if other.priority == job.priority]
        assert self.counters[job.caller] == min(self.counters[other.caller] for other in rivals)
        assert job is next(other for other in rivals if other.caller == job.caller), "first come first served"

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([job.key for job in self.jobs] + [-1]))
        job = next((job for job in self.jobs if job.key == key), None)
        assert self.queue.remove(key) is job
        if job is not None:
            self.drop(job)

    @rule(caller=CALLERS, tokens=st.integers(0, 20))
    def charge(self, caller: str, tokens: int) -> None:
        self.queue.charge(caller, tokens)
        # Nothing was heard of this caller before: it starts where it would be lifted to.
        self.counters[caller] = self.counters.get(caller, self.floor) + tokens

    def drop(self, job: Job) -> None:
        least = self.least()
        jobs = self.resumed if job in self.resumed else self.new
        jobs.remove(job)
        if job.caller not in {other.caller for other in self.jobs}:
            self.floor = least if self.jobs else max(least, self.counters[job.caller])

    def least(self) -> int:
        return max(self.floor, min((self.counters[job.caller] for job in self.jobs), default=self.floor))

    def level(self) -> int:
        return min((self.since[job.priority] + AGEING * job.priority, job.priority) for job in self.jobs)[1]

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.jobs)
        assert {job.key for job in self.queue} == {job.key for job in self.jobs}
        assert self.queue.tokens == sum(job.pending for job in self.jobs)
        assert all(job.key in self.queue for job in self.jobs)
        assert (self.queue.peek() is None) == (not self.jobs)


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def filled(jobs: list[Job], ageing: int = AGEING_ADMISSIONS) -> WaitingQueue[Job]:
    queue: WaitingQueue[Job] = WaitingQueue(ageing)
    for job in jobs:
        queue.push(job)
    return queue


def test_a_thousand_requests_of_one_caller_delay_anothers_one_by_at_most_one() -> None:
    queue = filled([Job(key, "greedy", pending=100) for key in range(1000)])
    for _ in range(10):
        queue.charge(queue.pop().caller, 100)
    queue.push(Job(1000, "modest"))
    following = []
    for _ in range(2):
        job = queue.pop()
        queue.charge(job.caller, 100)
        following.append(job.caller)
    assert "modest" in following


def test_an_idle_caller_saves_up_no_claim() -> None:
    queue = filled([Job(key, "busy") for key in range(50)])
    for _ in range(40):
        queue.charge(queue.pop().caller, 100)
    for key in range(50, 90):
        queue.push(Job(key, "late"))
    callers = []
    for _ in range(20):
        callers.append(queue.pop().caller)
        queue.charge(callers[-1], 100)
    assert callers.count("late") == callers.count("busy") == 10


@given(st.lists(st.tuples(CALLERS, st.integers(1, 50)), min_size=60, max_size=60))
def test_callers_that_always_wait_are_served_alike(costs: list[tuple[str, int]]) -> None:
    queue = filled([Job(index * 3 + place, caller) for index in range(60) for place, caller in enumerate("abc")])
    served = dict.fromkeys("abc", 0)
    most = max(cost for _, cost in costs)
    for _, cost in costs:
        caller = queue.pop().caller
        queue.charge(caller, cost)
        served[caller] += cost
        assert max(served.values()) - min(served.values()) <= 2 * most


@given(
    priority=st.integers(-3, 3),
    rivals=st.lists(st.integers(-3, 3), min_size=400, max_size=400),
    ageing=st.integers(1, 20),
)
@settings(deadline=None)
def test_no_priority_starves_whatever_else_arrives(priority: int, rivals: list[int], ageing: int) -> None:
    queue: WaitingQueue[Job] = WaitingQueue(ageing)
    queue.push(Job(0, "patient", priority))
    keys = count(1)
    for passed, rival in enumerate(rivals):
        queue.push(Job(next(keys), "rival", rival))
        if queue.pop().key == 0:
            break
        # Costs nothing, so that among equals the rival is never put behind.
        queue.charge("patient", 0)
        lowest = min(rivals[: passed + 1])
        # Of its own level the rivals come first at times: fairness, not priority, bounds those.
        others = len({*rivals[: passed + 1]})
        same = sum(other == priority for other in rivals[: passed + 1])
        assert passed + 1 <= max(0, priority - lowest) * ageing + others + same


def test_the_bound_of_priorities_is_reached_and_kept() -> None:
    queue = filled([Job(0, "x", 2), *(Job(key, "y", 0) for key in range(1, 200))], ageing=5)
    order = [queue.pop().key for _ in range(30)]
    assert order.index(0) == 10 + 1  # 2 levels x 5 admissions, and once for the other level


def test_urgent_ones_go_first_and_others_get_their_share() -> None:
    jobs = [Job(200 * priority + n, str(priority), priority) for priority in (1, 0) for n in range(200)]
    queue = filled(jobs)
    first = [queue.pop().priority for _ in range(AGEING_ADMISSIONS)]
    assert first == [0] * AGEING_ADMISSIONS
    share = [queue.pop().priority for _ in range(10 * (AGEING_ADMISSIONS + 1))]
    assert share.count(1) == 10


def test_preempted_ones_resume_before_new_ones_of_their_priority_only() -> None:
    queue = filled([Job(0), Job(1, priority=-1), Job(2)])
    queue.push_front(Job(3))
    queue.push_front(Job(4))
    assert [queue.pop().key for _ in range(5)] == [1, 4, 3, 0, 2]


def test_a_key_is_queued_once_and_an_empty_queue_says_so() -> None:
    queue = filled([Job(7)])
    with pytest.raises(ValueError, match="sequence 7 is queued already"):
        queue.push(Job(7))
    with pytest.raises(ValueError, match="sequence 7 is queued already"):
        queue.push_front(Job(7))
    queue.clear()
    assert len(queue) == queue.tokens == 0
    with pytest.raises(IndexError, match="empty queue"):
        queue.pop()


def test_callers_that_are_idle_are_forgotten_and_return_without_a_claim() -> None:
    counters = CallerCounters(max_idle=10)
    queue: WaitingQueue[Job] = WaitingQueue(callers=counters)
    queue.push(Job(0, "waits"))
    queue.charge("waits", 50)
    for key in range(1, 1001):
        queue.push(Job(key, f"connection {key}"))
        queue.remove(key)
        queue.charge(f"connection {key}", 3)
    assert len(counters) <= 11
    queue.push(Job(2000, "connection 1"))
    assert counters["connection 1"] >= 50


def test_the_caller_that_was_served_most_is_remembered_longest() -> None:
    counters = CallerCounters(max_idle=2)
    for caller, tokens in (("little", 1), ("much", 100), ("some", 10)):
        counters.charge(caller, tokens)
    assert len(counters) == 2
    assert counters["much"] == 100
    assert counters["little"] == 0

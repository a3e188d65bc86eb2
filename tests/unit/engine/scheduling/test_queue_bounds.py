import pytest

from router_service.engine.scheduling.block_manager import BlockManager, GroupSize
from router_service.engine.scheduling.limits import SchedulerLimits
from router_service.engine.scheduling.queue_bounds import QueueBounds, QueueFullError
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.scheduling.sequence import Sequence


def test_one_more_request_than_allowed_is_refused() -> None:
    QueueBounds(2).check(1, 10_000_000, 10_000_000)
    with pytest.raises(QueueFullError, match=r"2 requests wait already, the limit is 2 \(router.max_waiting\)"):
        QueueBounds(2).check(2, 0, 1)


def test_tokens_are_bounded_and_the_error_names_the_setting() -> None:
    bounds = QueueBounds(100, 1000)
    bounds.check(3, 900, 100)
    with pytest.raises(QueueFullError, match=r"hold 900 tokens and this one 101, .* 1000 \(router.max_waiting_t"):
        bounds.check(3, 900, 101)


def test_a_scheduler_refuses_more_waiting_tokens_than_its_limits_allow() -> None:
    limits = SchedulerLimits(token_budget=20, max_sequences=1, max_waiting=10, context=24, max_waiting_tokens=12)
    scheduler = Scheduler(limits, BlockManager([GroupSize(100)], 4))
    for key in range(2):
        scheduler.submit(Sequence(key, [1] * 6, 8))
    with pytest.raises(QueueFullError, match="the limit for both is 12"):
        scheduler.submit(Sequence(3, [1] * 6, 8))


def test_a_long_request_may_wait_alone() -> None:
    QueueBounds(100, 1000).check(0, 0, 5000)

"""What routers report of their routing: exact counts, and a bounded sample spread over the time."""

from collections.abc import Callable

import numpy as np
import pytest

from experts.costs import equal_costs
from experts.placement import placement_of
from experts.routing import LOST, Routing
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.metrics.load_sampler import MOST_BYTES, MOST_STEPS, MOST_TOKENS, LoadSampler

EXPERTS = 4
SHARDS = placement_of(((0, 1), (2, 3)))


def step(expert: int, tokens: int = 1, layers: tuple[int, ...] = (0, 2), width: int = 1) -> StepRecord:
    """A step whose tokens all go to one expert."""
    shape = (tokens, width)
    routings = [(layer, Routing(np.full(shape, expert), np.ones(shape, np.float32))) for layer in layers]
    return StepRecord(10**9, 0, tokens, StepTrace(routings=routings))


class Router:
    """A router's counts and its sampler; layer 1 of three is dense."""

    def __init__(self) -> None:
        self.now, self.epoch = 0.0, 1
        self.modelled = (100.0, 2000.0, 1500.0)
        self.statistics = Statistics(lambda: SHARDS, 3)
        self.sampler = LoadSampler(
            statistics=self.statistics,
            router="r",
            epoch=lambda: self.epoch,
            layers=(0, 2),
            clock=lambda: self.now,
            modelled=lambda: self.modelled,
            costs=lambda: equal_costs(2),
            suspect=lambda: (1,),
        )

    def run(self, *steps: StepRecord) -> None:
        for one in steps:
            self.statistics.observe(one)
            self.sampler.observe(one)


@pytest.fixture
def router() -> Router:
    return Router()


def test_counts_are_those_since_the_last_report(router: Router) -> None:
    router.run(step(1, 3), step(2, 5))
    router.now, router.modelled = 4.0, (102.0, 2050.0, 1540.0)
    first = router.sampler.take()
    assert first is not None
    assert first.demand.tokens_LE.tolist() == [[0, 3, 5, 0]] * 2
    assert (first.router, first.epoch, first.demand.layers, first.demand.seconds) == ("r", 1, (0, 2), 4.0)
    assert (first.calls, first.slowest_us, first.mean_us) == (2, 50.0, 40.0)
    assert first.suspect == (1,)
    assert first.costs is not None
    router.run(step(3))
    router.now = 9.0
    second = router.sampler.take()
    assert second is not None
    assert (second.demand.tokens_LE.tolist(), second.demand.seconds) == ([[0, 0, 0, 1]] * 2, 5.0)


def test_a_router_that_rests_reports_nothing(router: Router) -> None:
    assert router.sampler.take() is None
    router.run(step(1))
    assert router.sampler.take() is not None
    assert router.sampler.take() is None


def test_a_report_across_a_change_of_placement_counts_as_of_the_one_before(router: Router) -> None:
    router.run(step(1))
    router.epoch = 2
    epochs = []
    for _ in range(2):
        report = router.sampler.take()
        assert report is not None
        epochs.append(report.epoch)
        router.run(step(1))
    assert epochs == [1, 2]


def sampled(router: Router) -> list[int]:
    """The number of tokens of each sampled step."""
    report = router.sampler.take()
    assert report is not None
    assert all(batch.expert_ids_LTK.dtype == np.int16 for batch in report.demand.batches)
    return [batch.expert_ids_LTK.shape[1] for batch in report.demand.batches]


def test_all_of_few_steps_are_in_the_sample(router: Router) -> None:
    router.run(*(step(1, tokens) for tokens in range(1, MOST_STEPS + 1)))
    assert sorted(sampled(router)) == list(range(1, MOST_STEPS + 1))


def test_of_many_steps_a_bounded_number_is_sampled_from_all_of_the_time(router: Router) -> None:
    """Also where they follow a pattern: every second one has another size."""
    steps = 1000
    router.run(*(step(1, 1 + number // 100 * 2 + number % 2) for number in range(steps)))
    found = sampled(router)
    assert len(found) == MOST_STEPS
    assert {0, 1} == {size % 2 for size in found}
    assert len({(size - 1) // 20 for size in found}) == 1
    assert min(found) <= 6
    assert max(found) >= 16


def test_large_steps_stay_within_the_bytes_of_a_report(router: Router) -> None:
    router.run(*(step(1, 4000, width=16) for _ in range(MOST_STEPS)))
    found = sampled(router)
    assert set(found) == {MOST_TOKENS}
    assert len(found) * MOST_TOKENS * 2 * 16 * 2 <= MOST_BYTES


@pytest.mark.parametrize(
    "odd",
    [lambda: step(1, layers=(0,)), lambda: step(1, layers=())],
    ids=["tokens of all sequences lost", "no layer computed"],
)
def test_steps_that_did_not_reach_all_layers_are_counted_but_not_sampled(
    router: Router, odd: Callable[[], StepRecord]
) -> None:
    router.run(odd(), step(2, 2))
    assert sampled(router) == [2]


def test_lost_experts_keep_their_place(router: Router) -> None:
    one = step(1, 2)
    one.trace.routings[1][1].expert_ids_TK[1] = LOST
    router.run(one)
    report = router.sampler.take()
    assert report is not None
    assert report.demand.batches[0].expert_ids_LTK.tolist() == [[[1], [1]], [[1], [LOST]]]
    assert report.demand.tokens_LE.tolist() == [[0, 2, 0, 0], [0, 1, 0, 0]]

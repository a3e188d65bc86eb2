"""The balance of shards stays true where a placement differs by layer, has copies, leaves shards empty, and changes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from experts.links.state import LinkState
from experts.placement import LayerPlacement, Placement, even_placement
from experts.routing import Routing
from experts.timing.phase import PHASES
from experts.timing.phases import CallPhases, LayerTrip
from router_service.config import MetricsConfig
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.metrics.failure_series import FailureGauges
from router_service.metrics.router_series import ConnectionGauges, Gauges, router_series
from router_service.metrics.windows import Window
from router_service.router.reporting.shard_reports import shard_reports
from tests.support.scrape import GAUGES, LABELS, Page, exposed, page, value
from tests.support.tiny import Tiny
from tests.unit.metrics.live_router import Live

LAYERS, EXPERTS = 2, 4
NOTHING = (0,) * len(PHASES)


def layer(*holders: tuple[int, ...]) -> LayerPlacement:
    return LayerPlacement(holders)


def step(*loads: dict[int, int]) -> StepRecord:
    """One call a layer, in which each shard is asked for so many pairs; the gate chose experts evenly."""
    trips = [
        LayerTrip.of(
            number,
            [CallPhases(shard, NOTHING, pairs, pairs, 0, 0, 0) for shard, pairs in load.items()],
            pack_ns=0,
            exposed_ns=0,
            reduce_ns=0,
            waiting_ns=0,
        )
        for number, load in enumerate(loads)
    ]
    ids = np.arange(EXPERTS)[:, None]
    routings = [(number, Routing(ids, np.ones(ids.shape, np.float32))) for number in range(len(loads))]
    return StepRecord(10**9, 0, EXPERTS, StepTrace(trips=trips, routings=routings))


class Counted:
    """Statistics whose placement the test changes, as the router does: between two steps."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.statistics = Statistics(lambda: self.placement, LAYERS)

    def page(self) -> Page:
        return exposed(self.statistics)

    def balancedness(self) -> float:
        return value(self.page(), "balancedness")


def sums(metrics: Page) -> tuple[float, float]:
    count, total = (value(metrics, f"shard_load_imbalance_{part}") for part in ("count", "sum"))
    return count, total


def test_a_layer_is_judged_over_the_shards_that_hold_its_experts() -> None:
    """Room for five shards; layer 0 is on shards 0 and 1, layer 1 on three."""
    special = {1: layer((0,), (1,), (2,), (2,))}
    counted = Counted(Placement(5, layer((0,), (0,), (1,), (1,)), special))
    counted.statistics.observe(step({0: 30, 1: 10}, {0: 6, 1: 3, 2: 3}))
    ratios = [30 / 20, 6 / 4]
    assert sums(counted.page()) == (2, pytest.approx(sum(ratios)))
    assert counted.balancedness() == pytest.approx(sum(1 / ratio for ratio in ratios) / 2)
    told = counted.statistics.imbalance(counted.statistics.cumulative)
    assert told["shard_imbalance"] == pytest.approx(1.5)


def test_a_shard_that_holds_experts_and_gets_no_row_counts_in_the_mean() -> None:
    counted = Counted(even_placement(EXPERTS, 2, room=4))
    counted.statistics.observe(step({0: 8}, {1: 8}))
    assert sums(counted.page()) == (2, pytest.approx(4.0))
    # Over both layers together they are even: no layer hides the other.
    assert counted.balancedness() == pytest.approx(0.5)


def test_copies_count_where_they_were_asked() -> None:
    """All have expert 0's home on shard 0; what counts is who computed."""
    counted = Counted(Placement(2, layer((0, 1), (0, 1), (0, 1), (0, 1))))
    counted.statistics.observe(step({0: 10, 1: 10}, {0: 10, 1: 10}))
    assert counted.balancedness() == 1.0
    assert sums(counted.page()) == (2, 2.0)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_new_placement_is_judged_by_its_own_steps(flushed: bool) -> None:
    """The steps of the old one may still be waiting to be added up when the new one comes."""
    counted = Counted(even_placement(EXPERTS, 2, room=4))
    counted.statistics.observe(step({0: 30, 1: 10}, {0: 30, 1: 10}))
    if flushed:
        counted.statistics.flush()
    counted.placement = replace(even_placement(EXPERTS, 4), epoch=2)
    counted.statistics.observe(step(dict.fromkeys(range(4), 5), dict.fromkeys(range(4), 5)))
    assert sums(counted.page()) == (4, pytest.approx(2 * 1.5 + 2 * 1.0))
    assert counted.balancedness() == 1.0


def test_a_window_holds_no_load_of_an_earlier_placement() -> None:
    counted, now = Counted(even_placement(EXPERTS, 2, room=4)), 0.0
    statistics, window = counted.statistics, Window(counted.statistics.cumulative, now)
    seen = []
    for epoch, load in ((0, {0: 30, 1: 10}), (0, {0: 30, 1: 10}), (3, {0: 9, 1: 7}), (3, {0: 9, 1: 7})):
        counted.placement = replace(counted.placement, epoch=epoch)
        statistics.observe(step(load, load))
        statistics.flush()
        now += 1.0
        recent, _ = window.advance(statistics.cumulative, now)
        seen.append((recent.load.epoch, recent.load.counts_LS[0].tolist()))
        # Experts are the same wherever they are: their window goes on.
        assert recent.expert_tokens_LE[0].tolist() == [int(now)] * EXPERTS
    assert seen == [(0, [30, 10, 0, 0]), (0, [60, 20, 0, 0]), (3, [9, 7, 0, 0]), (3, [18, 14, 0, 0])]


def test_a_placement_without_a_step_says_nothing_of_balance_yet() -> None:
    counted = Counted(even_placement(EXPERTS, 2))
    statistics, window = counted.statistics, Window(counted.statistics.cumulative, 0.0)
    statistics.observe(step({0: 1, 1: 1}, {0: 1, 1: 1}))
    statistics.flush()
    window.advance(statistics.cumulative, 1.0)
    counted.placement = replace(counted.placement, epoch=1)
    statistics.observe(StepRecord(10**9, 0, 0, StepTrace()))
    statistics.flush()
    recent, _ = window.advance(statistics.cumulative, 2.0)
    told = page(router_series(statistics, recent, GAUGES, LABELS, MetricsConfig()))
    assert "expertmesh_balancedness" not in told
    assert value(told, "expert_load_imbalance") == 1.0


def test_room_for_shards_makes_no_series() -> None:
    counted = Counted(even_placement(EXPERTS, 2, room=200))
    counted.statistics.observe(step({0: 1, 1: 1}, {0: 1, 1: 1}))
    told = exposed(counted.statistics, gauges=gauges(2, 200))
    for family in told.values():
        shards = {sample.labels["shard"] for sample in family.samples if "shard" in sample.labels}
        assert shards <= {"0", "1", "router"}, family.name
    # As fine as of two shards: what there is room for takes none of the resolution.
    labels = {"shard": "0", "phase": "compute"}
    assert value(told, "alltoall_phase_seconds_bucket", le="2e-05", **labels) == 2


def test_a_shard_that_was_given_up_keeps_its_counts() -> None:
    counted = Counted(even_placement(EXPERTS, 2))
    counted.statistics.observe(step({0: 3, 1: 5}, {0: 3, 1: 5}))
    counted.placement = Placement(2, layer((0,), (0,), (0,), (0,)), epoch=1)
    counted.statistics.observe(step({0: 8}, {0: 8}))
    told = counted.page()
    assert [value(told, "alltoall_assignments_total", shard=shard) for shard in "01"] == [22, 10]
    assert counted.balancedness() == 1.0


def gauges(needed: int, room: int, up: tuple[int, ...] = (), listed: tuple[int, ...] = ()) -> Gauges:
    """The first shards hold experts; of the others some are up, and some listed and not reached."""
    connections = tuple(
        ConnectionGauges(replica="a", up=n < needed or n in up, restarts=0, reconnects=0, clock_error_s=0.0)
        for n in range(room)
    )
    links = tuple(LinkState.LIVE if one.up else LinkState.DEAD for one in connections)
    copies = tuple(1 if n < needed else None for n in range(room))
    failure = FailureGauges(links=links, copies=copies, there={*range(needed), *up, *listed})
    return replace(GAUGES, connections=connections, failure=failure, rejected={})


def test_a_shard_that_left_is_not_down_and_one_that_joins_is_there() -> None:
    """Shard 2 has joined and holds nothing yet, shard 3 is on its way; shard 4 was scaled away."""
    counted = Counted(even_placement(EXPERTS, 2, room=5))
    told = exposed(counted.statistics, gauges=gauges(2, 5, up=(2,), listed=(3,)))
    up = {sample.labels["shard"]: sample.value for sample in told["expertmesh_shard_up"].samples}
    assert up == {"0": 1, "1": 1, "2": 1}
    links = {sample.labels["shard"] for sample in told["expertmesh_shard_link_state"].samples}
    assert links == {"0", "1", "2", "3"}
    assert {sample.labels["shard"] for sample in told["expertmesh_expert_copies"].samples} == {"0", "1"}


def test_a_needed_shard_that_is_dead_is_down() -> None:
    failure = FailureGauges(links=(LinkState.LIVE, LinkState.DEAD), copies=(1, 0), there={0, 1})
    connections = tuple(replace(GAUGES.connections[0], up=up) for up in (True, False))
    told = exposed(
        Counted(even_placement(EXPERTS, 2)).statistics,
        gauges=replace(GAUGES, connections=connections, failure=failure),
    )
    assert [value(told, "shard_up", shard=shard) for shard in "01"] == [1, 0]


@pytest.fixture
def live(tiny: Callable[..., Tiny]) -> Iterator[Live]:
    live = Live(tiny("mixtral"))
    yield live
    live.close()


def test_a_report_has_no_shard_that_is_neither_needed_nor_there(live: Live) -> None:
    router = live.router
    recent, _ = Window(router.statistics.cumulative, 0.0).advance(router.statistics.cumulative, 1.0)
    room = len(router.connector.connections) - 2
    links = (LinkState.LIVE, *(LinkState.DEAD,) * (1 + room))
    for second, shards in ((None, [0]), (0, [0, 1])):
        copies = (1, second, *(None,) * room)
        failure = FailureGauges(links=links, copies=copies, there=set(shards))
        told = shard_reports(router.connector, failure, recent, 1.0)
        assert [one.shard for one in told] == shards

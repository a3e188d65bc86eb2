"""Who is asked for which block, when another is asked as well, and whose answer counts."""

from dataclasses import dataclass, field
from math import inf

import pytest

from experts.exchange import FULL_SECONDS, Ask, Attempt, Exchange, HedgeBudget
from experts.links.record import FailureRecord
from experts.links.state import LinkState

LIVE, PROVEN, SUSPECT, DEAD = LinkState.LIVE, LinkState.PROVEN, LinkState.SUSPECT, LinkState.DEAD
USUAL_S, LIMIT_S = 0.1, 10.0


@dataclass
class Shards:
    """The links' states, as the exchange sees them."""

    states: dict[int, LinkState] = field(default_factory=dict)
    full: set[int] = field(default_factory=set)

    def state(self, shard: int) -> LinkState:
        return self.states.get(shard, LIVE)

    def available(self, shard: int) -> bool:
        return self.state(shard).usable

    def rank(self, shard: int) -> int:
        return self.state(shard).rank

    def has_room(self, shard: int) -> bool:
        return shard not in self.full


class Layer:
    """An exchange, and the asks that it has sent."""

    def __init__(self, *holders: tuple[int, ...], budget: HedgeBudget | None = None) -> None:
        self.shards = Shards()
        self.record = FailureRecord()
        self.exchange: Exchange[int] = Exchange(holders, self.shards, self.record, budget or HedgeBudget(), LIMIT_S)
        self.asks: list[Ask] = []

    def begin(self) -> list[Ask]:
        return self.send(self.exchange.first(), 0.0)

    def look(self, now: float) -> list[Ask]:
        for attempt in self.exchange.newly_late(now):
            self.shards.states[attempt.shard] = SUSPECT
        return self.send(self.exchange.look(now), now)

    def send(self, asks: list[Ask], now: float) -> list[Ask]:
        for ask in asks:
            if ask.shard in self.shards.full:
                self.exchange.unsent(ask, "busy", "the window is full", now)
                continue
            number = len(self.asks)
            self.asks.append(ask)
            self.exchange.sent(number, Attempt(ask.shard, ask.blocks, now, now + USUAL_S, number, ask.hedge))
        return asks


def test_each_block_is_asked_of_its_first_holder_that_lives_and_a_shards_blocks_go_together() -> None:
    layer = Layer((0, 1), (1, 2), (2, 0), (0, 2))
    assert layer.begin() == [Ask(0, [0, 3]), Ask(1, [1]), Ask(2, [2])]
    assert layer.exchange.due_s == USUAL_S
    for number, blocks in ((0, [0, 3]), (2, [2]), (1, [1])):
        assert layer.exchange.answered(number) == blocks
    assert (layer.exchange.left, layer.exchange.answered_by) == (0, {0: 0, 3: 0, 2: 2, 1: 1})
    assert (layer.record.asks, layer.record.duplicates) == (3, 0)


@pytest.mark.parametrize(
    ("home", "other", "asked"),
    [(DEAD, LIVE, 1), (SUSPECT, LIVE, 1), (PROVEN, LIVE, 1), (SUSPECT, PROVEN, 1), (SUSPECT, DEAD, 0), (LIVE, LIVE, 0)],
)
def test_the_link_in_the_best_state_is_asked(home: LinkState, other: LinkState, asked: int) -> None:
    layer = Layer((0, 1))
    layer.shards.states |= {0: home, 1: other}
    assert layer.begin() == [Ask(asked, [0])]


def test_what_fails_over_to_one_shard_goes_as_one_ask() -> None:
    layer = Layer((0, 2), (1, 2), (3,))
    layer.begin()
    for shard in (0, 1):
        layer.shards.states[shard] = DEAD
        layer.exchange.failed(shard, "eof", "gone", 0.01)
    assert layer.exchange.due_s == -inf
    assert layer.look(0.01) == [Ask(2, [0, 1])]
    for number in (3, 2):
        layer.exchange.answered(number)
    layer.exchange.finish(0.03)
    assert layer.record.failovers["eof"] == 2
    assert layer.record.take_seconds() == pytest.approx([0.02, 0.02])


def test_a_suspect_is_doubled_once_and_the_first_answer_wins() -> None:
    layer = Layer((0, 1), (1, 0))
    layer.begin()
    layer.shards.states[0] = SUSPECT
    assert layer.look(0.05) == [Ask(1, [0], hedge=True)]
    assert layer.look(0.06) == []
    assert layer.exchange.answered(2) == [0]
    assert [attempt.call for attempt in layer.exchange.superfluous()] == [0]
    assert layer.exchange.answered(1) == [1]
    layer.exchange.finish(0.07)
    assert (layer.record.duplicates, layer.record.duplicates_won, layer.record.failovers["suspect"]) == (1, 1, 1)


def test_a_suspect_that_answers_first_is_used_and_what_it_has_left_comes_from_the_others() -> None:
    layer = Layer((0, 1), (0, 2))
    layer.begin()
    layer.shards.states[0] = SUSPECT
    assert layer.look(0.05) == [Ask(1, [0], hedge=True), Ask(2, [1], hedge=True)]
    assert layer.exchange.answered(1) == [0]
    assert layer.exchange.answered(0) == [1]
    assert layer.exchange.left == 0
    assert [attempt.call for attempt in layer.exchange.superfluous()] == [2]


def test_a_late_ask_is_doubled_by_anyone_and_a_suspect_only_by_a_better_one() -> None:
    layer = Layer((0, 1))
    layer.shards.states |= {0: SUSPECT, 1: SUSPECT}
    assert layer.begin() == [Ask(0, [0])]
    assert layer.look(0.05) == []
    assert layer.exchange.due_s == USUAL_S
    assert layer.look(USUAL_S) == [Ask(1, [0], hedge=True)]


def test_without_another_holder_a_suspect_is_waited_for() -> None:
    layer = Layer((0,))
    layer.begin()
    assert layer.look(100.0) == []
    assert (layer.exchange.left, layer.exchange.due_s) == (1, inf)
    assert layer.exchange.answered(0) == [0]


def test_lateness_is_repeated_within_a_budget_and_silence_always() -> None:
    layer = Layer((0, 1), budget=HedgeBudget(share=0.0, most=0.0))
    layer.begin()
    assert layer.look(USUAL_S) == []
    assert layer.exchange.due_s == 2 * USUAL_S, "it has as much time again"
    layer.shards.states[0] = SUSPECT
    assert layer.look(0.11) == [Ask(1, [0], hedge=True)]
    budget = HedgeBudget(share=0.25, most=1.0)
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


def test_a_miss_bars_the_shard_for_these_blocks_and_a_second_one_loses_them() -> None:
    layer = Layer((0, 1))
    layer.begin()
    layer.exchange.refused(0, "miss", "not held", 0.01)
    assert layer.look(0.01) == [Ask(1, [0])]
    layer.exchange.refused(1, "miss", "not held either", 0.02)
    assert layer.look(0.02) == []
    assert layer.exchange.lost == {0: (1, "miss", "not held either")}


def test_a_busy_shard_is_asked_again_after_its_time_and_another_at_once() -> None:
    layer = Layer((0, 1), (2,))
    layer.begin()
    layer.exchange.busy(0, 0.2, "busy", 0.0)
    layer.exchange.busy(1, 0.2, "busy", 0.0)
    assert layer.look(0.0) == [Ask(1, [0])]
    assert (layer.exchange.left, layer.exchange.due_s) == (2, USUAL_S)
    layer.exchange.answered(2)
    assert layer.look(0.1) == []
    assert layer.exchange.due_s == pytest.approx(0.2)
    assert layer.look(0.2) == [Ask(2, [1])]


def test_a_full_window_sends_blocks_elsewhere_or_waits() -> None:
    layer = Layer((0, 1), (0,))
    layer.shards.full.add(0)
    assert layer.begin() == [Ask(0, [0, 1])]
    assert layer.asks == [], "it could not be sent"
    assert layer.look(0.0) == [Ask(1, [0])]
    assert layer.exchange.due_s == FULL_SECONDS
    layer.shards.full.clear()
    assert layer.look(FULL_SECONDS) == [Ask(0, [1])]


def test_what_fails_for_good_is_lost_and_only_that() -> None:
    layer = Layer((0, 1), (1, 0))
    layer.begin()
    layer.exchange.broken(0, "error", "NaN in, NaN out")
    assert layer.exchange.lost == {0: (0, "error", "NaN in, NaN out")}
    assert layer.exchange.answered(1) == [1]
    assert layer.exchange.left == 0


def test_blocks_without_a_link_are_lost_at_once_and_the_others_are_not() -> None:
    layer = Layer((0,), (1,))
    layer.shards.states[0] = DEAD
    assert layer.begin() == [Ask(1, [1])]
    assert layer.look(0.0) == []
    assert layer.exchange.lost == {0: (0, "eof", "shard 0 is not connected")}
    layer.exchange.lose_all("timeout", "too late")
    assert layer.exchange.lost[1] == (1, "timeout", "too late")


def test_an_ask_that_could_not_be_sent_is_asked_of_another() -> None:
    layer = Layer((0, 1))
    (ask,) = layer.exchange.first()
    layer.shards.states[0] = DEAD
    layer.exchange.unsent(ask, "eof", "broken pipe", 0.0)
    assert layer.look(0.0) == [Ask(1, [0])]


def test_who_has_never_beaten_is_given_up_after_the_limit() -> None:
    layer = Layer((0,), (1,))
    layer.shards.states[0] = PROVEN
    layer.begin()
    assert layer.exchange.hopeless(LIMIT_S - 0.1) == set()
    assert layer.exchange.hopeless(LIMIT_S) == {0}

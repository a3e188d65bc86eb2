"""Which calls are open on a connection, when shared memory is free, and after how long a call is late."""

from experts.links.asks import ABANDONED_SECONDS, OpenAsks
from experts.links.usual import EVERY, FLOOR_SECONDS, UNKNOWN_SECONDS, WINDOW, UsualTimes


def test_an_answer_counts_once_and_only_while_somebody_waits() -> None:
    asks: OpenAsks[str] = OpenAsks()
    asks.add(1, "a", 0, shares=False)
    asks.add(2, "b", 0, shares=False)
    asks.abandon(1, now=5.0)
    assert asks.get(1) is None
    assert asks.answered(1, 0) is None
    answered = asks.answered(2, 0)
    assert answered is not None
    assert answered.call == "b"
    assert asks.answered(2, 0) is None
    assert len(asks) == 0


def test_an_answer_ends_the_cancelled_calls_before_it_on_its_channel() -> None:
    asks: OpenAsks[str] = OpenAsks()
    for number, channel in ((1, 0), (2, 1), (3, 0), (4, 0)):
        asks.add(number, "call", channel, shares=False)
        if number < 3:
            asks.abandon(number, now=0.0)
    assert asks.answered(4, 0) is not None
    assert list(asks) == [2, 3], "the other channel's is open, and so is one that somebody waits for"


def test_the_window_counts_abandoned_calls_for_a_while() -> None:
    asks: OpenAsks[str] = OpenAsks(window=2)
    for number in (1, 2):
        assert asks.has_room(0.0)
        asks.add(number, "call", 0, shares=False)
    assert not asks.has_room(0.0)
    asks.abandon(1, now=1.0)
    assert not asks.has_room(0.9 + ABANDONED_SECONDS)
    assert asks.has_room(1.0 + ABANDONED_SECONDS)


def test_shared_memory_is_one_calls_until_it_or_a_later_one_is_answered() -> None:
    asks: OpenAsks[str] = OpenAsks()
    asks.add(1, "call", 0, shares=True)
    assert (asks.may_share(0), asks.may_share(1)) == (False, True)
    asks.abandon(1, now=0.0)
    assert not asks.may_share(0), "the shard may read it still"
    asks.add(2, "call", 1, shares=False)
    asks.answered(2, 1)
    assert not asks.may_share(0), "another channel's answer says nothing"
    asks.add(3, "call", 0, shares=False)
    asks.answered(3, 0)
    assert asks.may_share(0)


def test_late_is_twice_the_usual_time_of_that_shard_and_size() -> None:
    usual = UsualTimes()
    assert usual.late_s(0, 5) == UNKNOWN_SECONDS
    for number in range(4 * WINDOW):
        usual.note(0, 5, 0.01 + 0.0001 * (number % 50))
        usual.note(0, 100, 1.0)
    assert usual.late_s(0, 7) == 2 * 0.0149 + FLOOR_SECONDS
    assert usual.late_s(0, 64) == 2.0 + FLOOR_SECONDS
    assert usual.late_s(1, 5) == UNKNOWN_SECONDS


def test_one_late_answer_of_a_hundred_does_not_move_it_and_a_shard_that_has_slowed_down_does() -> None:
    usual = UsualTimes()
    for _ in range(WINDOW):
        usual.note(0, 1, 0.01)
    usual.note(0, 1, 5.0)
    for _ in range(EVERY):
        usual.note(0, 1, 0.01)
    assert usual.late_s(0, 1) == 2 * 0.01 + FLOOR_SECONDS
    for _ in range(WINDOW):
        usual.note(0, 1, 0.3)
    assert usual.late_s(0, 1) == 2 * 0.3 + FLOOR_SECONDS

"""A link's states, by the times that are handed in."""

import pytest

from experts.links.machine import Link, LinkLimits
from experts.links.patience import PatienceClock
from experts.links.record import FailureRecord
from experts.links.state import LinkState
from experts.links.table import Links

LIMITS = LinkLimits()
BEAT_S = LIMITS.beat_s


@pytest.fixture
def link() -> Link:
    link = Link(LIMITS)
    assert link.state is LinkState.DIALING
    link.connected(0.0)
    return link


def beats(link: Link, begin: float, end: float, progress: bool = True) -> None:
    """Beats of a shard that computes."""
    for number in range(round((end - begin) / BEAT_S) + 1):
        link.beat(begin + number * BEAT_S, True, number if progress else 1)


def test_who_has_never_beaten_is_not_blamed_for_silence(link: Link) -> None:
    link.tick(1000.0)
    assert (link.state, link.state.usable) == (LinkState.PROVEN, True)
    link.late(1000.0, 1)
    assert link.state is LinkState.PROVEN
    link.beat(1000.1, False, 0)
    assert link.state is LinkState.SUSPECT, "an answer is still late"


def test_three_missed_beats_are_suspect_and_one_beat_forgives(link: Link) -> None:
    link.beat(1.0, False, 0)
    link.tick(1.0 + 2.9 * BEAT_S)
    assert link.state is LinkState.LIVE
    link.tick(1.0 + 3.1 * BEAT_S)
    assert link.state is LinkState.SUSPECT
    link.beat(1.3, False, 0)
    assert (link.state, link.suspicions, link.forgiven) == (LinkState.LIVE, 1, 1)


def test_two_seconds_of_silence_and_an_end_are_death(link: Link) -> None:
    link.beat(1.0, False, 0)
    link.tick(2.99)
    assert link.state is LinkState.SUSPECT
    link.tick(3.01)
    assert (link.state, link.reason) == (LinkState.DEAD, "timeout")
    link.beat(3.02, False, 0)
    assert link.state is LinkState.DEAD, "a replica that is back is dialled anew"
    link.connected(4.0)
    assert (link.state, link.reason) == (LinkState.PROVEN, "")
    link.ended("eof")
    assert (link.state, link.reason) == (LinkState.DEAD, "eof")
    link.ended("timeout")
    assert link.reason == "eof", "the first cause counts"


def test_slow_is_not_dead_and_beats_without_progress_are(link: Link) -> None:
    beats(link, 1.0, 100.0)
    assert link.state is LinkState.LIVE
    beats(link, 100.0, 100.0 + LIMITS.hung_s - 0.1, progress=False)
    assert link.state is LinkState.LIVE
    beats(link, 100.0 + LIMITS.hung_s - 0.1, 101.0 + LIMITS.hung_s, progress=False)
    assert (link.state, link.reason) == (LinkState.DEAD, "timeout")


def test_an_idle_shard_makes_no_progress_and_lives(link: Link) -> None:
    for number in range(1000):
        link.beat(number * BEAT_S, False, 7)
    assert link.state is LinkState.LIVE


def test_who_beats_and_does_not_answer_on_the_same_connection_is_deaf(link: Link) -> None:
    link.asked(1.0)
    beats(link, 1.0, 2.0)
    link.told()
    link.asked(2.0)
    link.asked(4.0)
    beats(link, 2.0, 2.0 + LIMITS.deaf_s - 0.1)
    assert link.state is LinkState.LIVE
    beats(link, 2.0 + LIMITS.deaf_s - 0.1, 2.1 + LIMITS.deaf_s)
    assert link.state is LinkState.DEAD, "the first question counts"


def test_probation_after_late_answers_doubles_and_ends(link: Link) -> None:
    now, held = 10.0, []
    for number in range(8):
        beats(link, now - BEAT_S, now)
        link.late(now, number)
        assert link.state is LinkState.SUSPECT
        begun = now
        link.settled(number)
        while link.state is LinkState.SUSPECT:
            now += BEAT_S
            link.beat(now, False, 0)
        held.append(round((now - begun) / LIMITS.probation_s))
    assert held == [1, 2, 4, 8, 16, 32, 32, 32]
    beats(link, now, now + 2 * LIMITS.most_probation_s)
    now += 2 * LIMITS.most_probation_s
    link.late(now, 99)
    link.settled(99)
    link.beat(now + LIMITS.probation_s, False, 0)
    assert link.state is LinkState.LIVE, "after a good while it begins anew"


def test_a_late_call_keeps_the_link_suspect_until_it_is_settled(link: Link) -> None:
    link.beat(1.0, False, 0)
    link.late(1.0, 5)
    beats(link, 1.0, 4.0)
    assert link.state is LinkState.SUSPECT
    link.settled(5)
    link.beat(4.05, False, 0)
    assert link.state is LinkState.LIVE


def test_patience_advances_by_little_however_long_nobody_looked() -> None:
    clock = PatienceClock(0.1)
    assert [clock.advance(now) for now in (5.0, 5.05, 65.0, 65.02, 65.0)] == pytest.approx([0, 0.05, 0.15, 0.17, 0.17])


def test_what_is_said_of_an_earlier_connection_changes_nothing() -> None:
    links, changes = Links(FailureRecord()), list[tuple[int, LinkState]]()
    links.listen(lambda shard: changes.append((shard, links.state(shard))))
    first = links.connected(3)
    links.beat(3, first, False, 0)
    second = links.connected(3)
    links.ended(3, first, "eof")
    links.beat(3, first, False, 0)
    assert links.state(3) is LinkState.PROVEN
    links.beat(3, second, False, 0)
    links.ended(3, second, "eof")
    assert [state.value for _, state in changes] == ["proven", "live", "proven", "live", "dead"]
    assert (links.reason(3), links.state(0), links.number(0)) == ("eof", LinkState.DIALING, 0)


def test_a_shard_that_drains_is_asked_last_of_those_that_live() -> None:
    links = Links()
    for shard in (0, 1):
        links.beat(shard, links.connected(shard), False, 0, draining=shard == 0)
    links.connected(2)
    assert sorted(range(4), key=links.rank) == [1, 2, 0, 3]
    assert links.state(0) is LinkState.LIVE


def test_suspicions_are_counted_for_all() -> None:
    links = Links(record := FailureRecord())
    for shard in range(3):
        links.beat(shard, links.connected(shard), False, 0)
    links.tick(0.2)
    assert (record.suspicions, record.forgiven) == (3, 0)
    links.beat(1, 1, False, 0)
    assert (record.suspicions, record.forgiven) == (3, 1)

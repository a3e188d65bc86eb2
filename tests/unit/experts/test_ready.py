"""Waiting for many shards' replies: what it asks the system for, and who is told to be ready."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

import experts.transport.ready
from experts.transport.base import Reply, ShardUnavailable
from experts.transport.ready import Ready
from tests.benchmarks.bench_receive import Pairs

SHARDS, LAYERS, WAIT_S = 64, 5, 60.0


class CountingEpoll:
    """An epoll object that counts what it is asked for; the bell that other threads ring is not counted."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.registered, self.unregistered, self.polls = -1, 0, 0

    def register(self, descriptor: int, events: int) -> None:
        self.registered += 1
        self.epoll.register(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        self.unregistered += 1
        self.epoll.unregister(descriptor)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        self.polls += 1
        return self.epoll.poll(timeout)

    def close(self) -> None:
        self.epoll.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountingEpoll:
    epoll = CountingEpoll()
    ours = SimpleNamespace(epoll=lambda: epoll, EPOLLIN=select.EPOLLIN, EPOLLOUT=select.EPOLLOUT)
    monkeypatch.setattr(experts.transport.ready, "select", ours)
    return epoll


@pytest.fixture
def pairs(counted: CountingEpoll) -> Iterator[Pairs]:
    pairs = Pairs(SHARDS, Ready())
    assert counted.registered == 0, "a connection is taken up with its first call"
    yield pairs
    pairs.close()


def test_64_shards_are_registered_once_and_never_for_a_reply(pairs: Pairs, counted: CountingEpoll) -> None:
    for _ in range(LAYERS):
        pairs.at_once()
    assert (counted.registered, counted.unregistered) == (SHARDS, 0)
    # A look tells of a number of connections, and one more may find the bell that told of their arrival.
    assert counted.polls <= 2 * LAYERS + 1, "replies that came together are seen by few looks"
    pairs.one_by_one()
    assert (counted.registered, counted.unregistered) == (SHARDS, 0)
    assert counted.polls <= 2 * LAYERS + 1 + SHARDS
    pairs.close()
    assert (counted.registered, counted.unregistered) == (SHARDS, SHARDS)


def test_an_idle_shard_that_hangs_up_is_dropped_while_others_are_waited_for(pairs: Pairs) -> None:
    pairs.at_once()
    pairs.shards[3].close()
    outstanding = pairs.asked({5, 6})
    for shard in (5, 6):
        pairs.reply(shard)
        assert isinstance(pairs.receive(outstanding), Reply)
    assert not pairs.transport.available(3)
    with pytest.raises(ShardUnavailable, match="shard 3"):
        pairs.asked({3})


def test_a_shard_that_breaks_fails_its_calls_and_no_others(pairs: Pairs) -> None:
    outstanding = pairs.asked({1, 2})
    pairs.shards[1].close()
    first = pairs.receive(outstanding)
    assert isinstance(first, ShardUnavailable)
    assert (first.shard, first.reason) == (1, "eof")
    pairs.reply(2)
    assert isinstance(pairs.receive(outstanding), Reply)


def test_a_shard_that_connects_again_is_waited_for_on_its_new_connection(pairs: Pairs) -> None:
    pairs.at_once()
    pairs.connect(7)
    pairs.at_once()
    outstanding = pairs.asked({7})
    pairs.reply(7)
    assert isinstance(pairs.receive(outstanding), Reply)


def test_nothing_by_the_time_is_none_and_what_has_come_is_told_all_the_same(pairs: Pairs) -> None:
    outstanding = pairs.asked({4})
    assert pairs.transport.receive(time.monotonic()) is None
    pairs.reply(4)
    past = time.monotonic() - 1
    event = pairs.transport.receive(past)
    assert isinstance(event, Reply)
    assert event.sequence == outstanding[4].sequence


def test_a_wait_is_ended_by_whoever_wakes_it() -> None:
    ready = Ready[int]()
    with ExitStack() as ends:
        ends.callback(ready.close)
        ours, theirs = map(ends.enter_context, socket.socketpair())
        ready.add(1, ours.fileno())
        waker = threading.Thread(target=ready.wake)
        waker.start()
        assert ready.wait(time.monotonic() + WAIT_S) == []
        waker.join()
        theirs.send(b"x")
        assert [key for key, _ in ready.wait(time.monotonic() + WAIT_S)] == [1]
        ready.writing(1, wanted=True)
        assert ready.wait(time.monotonic() + WAIT_S) == [(1, select.EPOLLIN | select.EPOLLOUT)]
        ready.remove(1)
        assert ready.wait(time.monotonic()) == []
    ready.wake()  # too late, and no fault

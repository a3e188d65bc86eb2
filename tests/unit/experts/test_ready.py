"""Waiting for many shards' replies: what it asks the system for, and who is told to be ready."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

import experts.transport.ready
from experts.transport.base import Reply, ShardUnavailable
from experts.transport.ready import ReadyShards
from tests.benchmarks.bench_receive import Pairs

SHARDS, LAYERS, WAIT_S = 64, 5, 60.0


class CountingEpoll:
    """An epoll object that counts what it is asked for."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.registered, self.unregistered, self.polls = 0, 0, 0

    def register(self, descriptor: int, events: int) -> None:
        self.registered += 1
        self.epoll.register(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        self.unregistered += 1
        self.epoll.unregister(descriptor)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        self.polls += 1
        return self.epoll.poll(timeout)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountingEpoll:
    epoll = CountingEpoll()
    ours = SimpleNamespace(epoll=lambda: epoll, EPOLLIN=select.EPOLLIN)
    monkeypatch.setattr(experts.transport.ready, "select", ours)
    return epoll


@pytest.fixture
def pairs(counted: CountingEpoll) -> Iterator[Pairs]:
    pairs = Pairs(SHARDS, ReadyShards())
    assert counted.registered == 0, "a connection is taken up with its first call"
    yield pairs
    pairs.close()


def test_64_shards_are_registered_once_and_never_for_a_reply(pairs: Pairs, counted: CountingEpoll) -> None:
    for _ in range(LAYERS):
        pairs.at_once()
    assert (counted.registered, counted.unregistered) == (SHARDS, 0)
    assert counted.polls <= LAYERS, "replies that came together are seen by one look"
    pairs.one_by_one()
    assert (counted.registered, counted.unregistered) == (SHARDS, 0)
    assert counted.polls <= LAYERS + SHARDS
    pairs.close()
    assert (counted.registered, counted.unregistered) == (SHARDS, SHARDS)


def test_an_idle_shard_that_hangs_up_does_not_end_the_waits_for_others(pairs: Pairs, counted: CountingEpoll) -> None:
    """It is seen once and set aside; the next call finds that it has gone."""
    pairs.at_once()
    pairs.shards[3].close()
    before = counted.polls
    outstanding = pairs.asked({5, 6})
    for shard in (5, 6):
        pairs.reply(shard)
        assert isinstance(pairs.transport.receive(outstanding, time.monotonic() + WAIT_S), Reply)
        del outstanding[shard]
    assert counted.polls <= before + 4
    assert (counted.registered, counted.unregistered) == (SHARDS, 1)
    with pytest.raises(ShardUnavailable, match="shard 3"):
        pairs.asked({3})
    assert not pairs.transport.available(3)


def test_a_call_to_a_shard_that_broke_fails_without_a_wait(pairs: Pairs, counted: CountingEpoll) -> None:
    outstanding = pairs.asked({1, 2})
    pairs.shards[1].close()
    first = pairs.transport.receive(outstanding, time.monotonic() + WAIT_S)
    assert isinstance(first, ShardUnavailable)
    assert (first.shard, first.reason) == (1, "eof")
    before = counted.polls
    again = pairs.transport.receive(outstanding, time.monotonic() + WAIT_S)  # the caller asks for it once more
    assert isinstance(again, ShardUnavailable)
    assert (again.shard, again.reason, counted.polls) == (1, "eof", before)
    del outstanding[1]
    pairs.reply(2)
    assert isinstance(pairs.transport.receive(outstanding, time.monotonic() + WAIT_S), Reply)


def test_a_shard_that_connects_again_is_waited_for_on_its_new_connection(pairs: Pairs) -> None:
    pairs.at_once()
    pairs.connect(7)
    pairs.at_once()
    outstanding = pairs.asked({7})
    pairs.reply(7)
    assert isinstance(pairs.transport.receive(outstanding, time.monotonic() + WAIT_S), Reply)


def test_no_reply_by_the_deadline_is_a_timeout(pairs: Pairs) -> None:
    outstanding = pairs.asked({4})
    late = pairs.transport.receive(outstanding, time.monotonic())
    assert isinstance(late, ShardUnavailable)
    assert (late.shard, late.reason) == (4, "timeout")


def test_a_reply_is_read_also_where_it_was_seen_while_others_were_waited_for() -> None:
    """As with two layers in flight: what came early is told when its turn is, and is watched again from then on."""
    with ExitStack() as ends:
        ready, pairs = ReadyShards(), [tuple(map(ends.enter_context, socket.socketpair())) for _ in range(3)]
        for shard, (ours, _) in enumerate(pairs):
            ready.add(shard, ours.fileno())
        deadline = time.monotonic() + WAIT_S
        for _ in range(2):
            for _, theirs in pairs:
                theirs.send(b"x")
            assert [ready.next_of({shard}, deadline) for shard in (2, 0, 1)] == [2, 0, 1]
            for ours, _ in pairs:
                ours.recv(1)
        assert ready.next_of({0, 1, 2}, 0.0) is None
        ready.remove(1)
        pairs[1][1].send(b"x")
        assert ready.next_of({0, 1, 2}, 0.0) is None

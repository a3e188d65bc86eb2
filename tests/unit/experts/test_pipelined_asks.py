"""Many calls open on one connection: whose answer is whose, what is refused, dropped, cancelled; nobody waits."""

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from experts.links.asks import WINDOW
from experts.links.state import LinkState
from experts.transport.base import Event, Refusal, Reply, Sent, ShardUnavailable, Why
from experts.transport.call import ExpertCall, Partial, Stamps, pack_partial, unpack_call
from experts.transport.channel import Channel
from experts.transport.control import Busy, Failure, Miss
from experts.transport.frame import Kind
from experts.transport.shared import SharedRows
from experts.transport.socket import SocketTransport

HIDDEN, WAIT_S = 64, 60.0


def call_of(rows: int = 1) -> ExpertCall:
    numbers = np.arange(rows, dtype=np.int32)
    return ExpertCall(0, torch.zeros(rows, HIDDEN), numbers, np.zeros(rows, np.int32), np.ones(rows, np.float32))


class Line:
    """A transport to shard 0, and the shard's ends of its two connections."""

    def __init__(self) -> None:
        self.transport = SocketTransport()
        (self.ours, self.shard), (self.control, self.told) = (
            tuple(Channel(sock, 1) for sock in socket.socketpair()) for _ in range(2)
        )
        self.transport.offer(0, self.ours, control=self.control)

    def send(self, rows: int = 1) -> Sent:
        return self.transport.send(0, call_of(rows), 0)

    def event(self) -> Event:
        """What becomes of a call; a link that changes its state ends a wait with nothing."""
        while (event := self.transport.receive(time.monotonic() + WAIT_S)) is None:
            pass
        return event

    def answer(self, sequence: int, value: float = 0.0, rows: int = 1) -> None:
        parts = pack_partial(Partial(torch.full((rows, HIDDEN), value), Stamps(0, 0, 0)))
        self.shard.send(Kind.PARTIALS, sequence, parts)

    def close(self) -> None:
        self.transport.close()
        for channel in (self.shard, self.control, self.told):
            channel.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def test_answers_that_come_together_are_told_one_by_one(line: Line) -> None:
    sent = [line.send() for _ in range(3)]
    for number, one in enumerate(sent):
        line.answer(one.sequence, float(number))
    for number, one in enumerate(sent):
        event = line.event()
        assert isinstance(event, Reply)
        assert (event.sequence, event.partial.y_ND[0, 0].item()) == (one.sequence, float(number))
    assert line.transport.receive(time.monotonic()) is None


def test_an_answer_that_nobody_waits_for_is_dropped_and_counted(line: Line) -> None:
    """One that was cancelled, one that was answered before, and one that was never asked: the connection lives."""
    first, second = line.send(), line.send()
    line.transport.cancel(first)
    for sequence in (first.sequence, second.sequence, second.sequence, 99):
        line.answer(sequence)
    assert line.event().sequence == second.sequence
    assert line.transport.receive(time.monotonic()) is None
    assert (line.transport.record.late_answers, line.transport.record.cancels) == (3, 1)
    assert line.transport.available(0)
    assert line.told.receive()[0][:4:3] == (Kind.CANCEL, first.sequence)


@pytest.mark.parametrize(
    ("kind", "payload", "refusal"),
    [
        (
            Kind.MISS,
            Miss(3, (7, 9)).packed(),
            Refusal(0, 1, Why.MISS, "shard 0 does not hold experts 7, 9 as of epoch 3"),
        ),
        (Kind.BUSY, Busy(1500).packed(), Refusal(0, 1, Why.BUSY, "shard 0 is busy", retry_s=0.0015)),
        (Kind.FAILURE, Failure(True, "NaN").packed(), Refusal(0, 1, Why.ERROR, "shard 0: NaN", permanent=True)),
        (Kind.FAILURE, Failure(False, "memory").packed(), Refusal(0, 1, Why.ERROR, "shard 0: memory")),
    ],
)
def test_a_refusal_costs_no_link(line: Line, kind: Kind, payload: bytes, refusal: Refusal) -> None:
    line.send()
    line.shard.send(kind, 1, [payload])
    assert line.event() == refusal
    assert line.transport.available(0)


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        (Kind.PARTIALS, b"noise", "short"),
        (Kind.PARTIALS, pack_partial(Partial(torch.zeros(2, HIDDEN), Stamps(0, 0, 0))), "length"),
        (Kind.PARTIALS, pack_partial(Partial(torch.zeros(1, 1), Stamps(0, 0, 0))), "length"),
        (Kind.MISS, b"noise", "length"),
        (Kind.STATUS, b"", "kind"),
    ],
)
def test_noise_fails_all_calls_of_the_link(line: Line, kind: Kind, payload: object, reason: str) -> None:
    sent = [line.send() for _ in range(2)]
    line.shard.send(kind, 1, payload if isinstance(payload, list) else [payload])
    events = [line.event() for _ in sent]
    assert all(isinstance(event, ShardUnavailable) and event.reason == reason for event in events)
    assert [event.sequence for event in events] == [one.sequence for one in sent]
    assert line.transport.state(0) is LinkState.DEAD


def test_a_window_of_calls_may_be_open(line: Line) -> None:
    sent = [line.send() for _ in range(WINDOW)]
    assert not line.transport.has_room(0)
    with pytest.raises(ShardUnavailable) as refused:
        line.send()
    assert refused.value.reason == "busy"
    line.answer(sent[0].sequence)
    line.event()
    assert line.transport.has_room(0)
    line.send()


def test_what_the_shard_has_no_room_for_is_sent_when_it_has(line: Line) -> None:
    """Sending waits for nobody; receiving sends on."""
    rows = 1 << 14
    sent = [line.send(rows) for _ in range(4)]
    assert line.ours.unsent_bytes > 0
    read = list[int]()

    def serve() -> None:
        for _ in sent:
            header, _ = line.shard.receive()
            read.append(header.sequence)
            line.answer(header.sequence, rows=rows)

    shard = threading.Thread(target=serve)
    shard.start()
    assert [line.event().sequence for _ in sent] == [one.sequence for one in sent]
    shard.join()
    assert (read, line.ours.unsent_bytes) == ([one.sequence for one in sent], 0)


def test_shared_memory_has_one_calls_rows_and_further_calls_go_by_the_socket(line: Line) -> None:
    line.ours.shared = SharedRows(memoryview(bytearray(1 << 20)), memoryview(bytearray(1 << 20)))
    rows, apart = 100, []
    for _ in range(2):
        line.send(rows)
        apart.append(unpack_call(line.shard.receive()[1], line.ours.shared.calls).apart)
    line.transport.cancel(Sent(0, 1, rows, 0, 0))
    line.send(rows)
    apart.append(unpack_call(line.shard.receive()[1], line.ours.shared.calls).apart)
    for sequence in (2, 3):
        line.answer(sequence, rows=rows)
        line.event()
    line.send(rows)
    apart.append(unpack_call(line.shard.receive()[1], line.ours.shared.calls).apart)
    assert apart == [True, False, False, True]


def test_a_link_that_dies_elsewhere_ends_a_wait(line: Line) -> None:
    """As when the watcher has heard no beat for seconds."""
    sent = line.send()
    links = line.transport.links
    watcher = threading.Thread(target=lambda: links.ended(0, links.number(0), "timeout"))
    watcher.start()
    event = line.event()
    watcher.join()
    assert isinstance(event, ShardUnavailable)
    assert (event.sequence, event.reason) == (sent.sequence, "timeout")
    assert line.transport.incarnation(0) is None


def test_a_late_call_is_told_to_the_link_and_settled_by_its_answer(line: Line) -> None:
    links = line.transport.links
    links.beat(0, links.number(0), False, 0)
    sent = line.send()
    line.transport.late(sent)
    assert line.transport.state(0) is LinkState.SUSPECT
    line.answer(sent.sequence)
    assert line.event().sequence == sent.sequence
    for number in range(20):
        links.tick(number * 0.05)
        links.beat(0, links.number(0), False, 0)
    assert line.transport.state(0) is LinkState.LIVE

"""Calls that are not computed: cancelled, late, too many, of experts elsewhere, or at fault. Others never notice."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experts.shard.refusals import CallCancelledError, Cancels
from experts.shard.server import ExpertServer
from experts.transport.call import ExpertCall, pack_call, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.control import Busy, Failure, Hello, Miss
from experts.transport.frame import Kind
from tests.support.mesh import CREDENTIALS, NODE, until
from tests.unit.experts.frame_servers import status_of
from tests.unit.experts.merge_fakes import WAIT_S, HeldShard, HeldWork, call_of, sums_of


class Clock:
    """This machine's, moved on by as much as a test says."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.ahead_ns


class Frail(HeldWork):
    """Fails while it is told to, with `fault`: for each call, or for those with a row of `poison`."""

    fault: Exception | None = None
    poison: ExpertCall | None = None

    def __call__(self, call: ExpertCall) -> Tensor:
        y_RD = super().__call__(call)
        poisoned = self.poison is None or any(torch.equal(row, self.poison.x_RD[0]) for row in call.x_RD)
        if self.fault is not None and poisoned:
            raise self.fault
        return y_RD


class Rig:
    """A shard that computes when it is let go, and routers: a control connection and some for calls each."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.clock, self.shard = Clock(), HeldShard()
        self.work = self.shard.compute = Frail()
        self.server = ExpertServer(
            self.shard,  # type: ignore[arg-type]
            credentials=CREDENTIALS,
            host="127.0.0.1",
            node=NODE,
            replica="r0",
            clock_ns=self.clock,
        )
        stack.callback(self.server.close)
        stack.callback(self.work.let_go, 1000)

    def connect(self, router: int = 1) -> Channel:
        """A connection of a router."""
        channel = connect(self.server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=Hello(router, 0))
        self._stack.callback(channel.close)
        channel.set_timeouts(WAIT_S)
        return channel

    def busy(self) -> Channel:
        """A router whose call is being computed."""
        channel, before = self.connect(99), len(self.work.calls)
        channel.send(Kind.EXPERTS, 1, pack_call(call_of(8, 1)))
        until(lambda: len(self.work.calls) > before, "it computes")
        return channel

    def wait(self, channel: Channel, sequence: int, call: ExpertCall) -> None:
        """Send a call, and return when it waits."""
        before = self.server.queue.waiting
        channel.send(Kind.EXPERTS, sequence, pack_call(call))
        until(lambda: self.server.queue.waiting > before, "it waits")

    def computed_rows(self) -> list[int]:
        """Rows of each computation so far."""
        return [len(call.x_RD) for call in self.work.calls]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack)


def check(channel: Channel, sequence: int, call: ExpertCall) -> None:
    """Take a reply: the call's own sums."""
    header, payload = channel.receive()
    assert (header.kind, header.sequence) == (Kind.PARTIALS, sequence)
    assert torch.equal(unpack_partial(payload).y_ND, sums_of(call))


def failure(channel: Channel, sequence: int) -> Failure:
    header, payload = channel.receive()
    assert (header.kind, header.sequence) == (Kind.FAILURE, sequence)
    return Failure.unpacked(payload)


def test_a_cancelled_call_that_waits_is_dropped_at_once_and_its_connection_goes_on(rig: Rig) -> None:
    """Its neighbour is computed alone, and the router's next call on that connection waits already."""
    busy, one, other, control = rig.busy(), rig.connect(), rig.connect(2), rig.connect()
    rig.wait(one, 1, call_of(0, 3))
    rig.wait(other, 1, call_of(0, 4))
    one.send(Kind.EXPERTS, 2, pack_call(call_of(0, 5)))
    control.send(Kind.CANCEL, 1, [])
    until(lambda: rig.server.queue.counts.cancelled == 1, "it is dropped")
    until(lambda: rig.server.queue.waiting == 2, "the next one waits")
    rig.work.let_go(2)
    check(one, 2, call_of(0, 5))
    check(other, 1, call_of(0, 4))
    assert rig.computed_rows() == [1, 9]
    busy.receive()
    assert status_of(control)["cancelled_calls"] == 1


def test_a_router_cancels_its_own_calls_only(rig: Rig) -> None:
    busy, one, control = rig.busy(), rig.connect(1), rig.connect(2)
    rig.wait(one, 1, call_of(0, 3))
    control.send(Kind.CANCEL, 1, [])
    assert status_of(control)["cancelled_calls"] == 0
    rig.work.let_go(2)
    check(one, 1, call_of(0, 3))
    busy.receive()


def test_a_cancel_may_overtake_its_call(rig: Rig) -> None:
    one, control = rig.connect(), rig.connect()
    control.send(Kind.CANCEL, 1, [])
    status_of(control)
    one.send(Kind.EXPERTS, 1, pack_call(call_of(0, 3)))
    one.send(Kind.EXPERTS, 2, pack_call(call_of(0, 4)))
    rig.work.let_go()
    check(one, 2, call_of(0, 4))
    assert rig.computed_rows() == [4]
    assert rig.server.queue.counts.cancelled == 1


def test_a_call_that_computes_goes_on_when_it_is_cancelled(rig: Rig) -> None:
    one, control = rig.connect(), rig.connect()
    one.send(Kind.EXPERTS, 1, pack_call(call_of(0, 3)))
    until(lambda: len(rig.work.calls) == 1, "it computes")
    control.send(Kind.CANCEL, 1, [])
    status_of(control)
    rig.work.let_go(2)
    check(one, 1, call_of(0, 3))
    one.send(Kind.EXPERTS, 2, pack_call(call_of(1, 2)))
    check(one, 2, call_of(1, 2))


def test_a_cancel_has_no_payload(rig: Rig) -> None:
    control = rig.connect()
    control.send(Kind.CANCEL, 1, [b"?"])
    with pytest.raises(ConnectionError):
        control.receive()
    assert rig.server.rejected == {"length": 1}


def test_of_the_cancels_of_calls_that_never_come_the_oldest_are_forgotten() -> None:
    cancels = Cancels(most=3)
    for number in range(5):
        cancels.add(number)
    for number in (0, 1):
        cancels.check(number)
    for number in (2, 3, 4):
        with pytest.raises(CallCancelledError):
            cancels.check(number)
        cancels.check(number)


def test_a_call_whose_time_has_passed_when_its_turn_comes_is_not_computed(rig: Rig) -> None:
    busy, late, other = rig.busy(), rig.connect(1), rig.connect(2)
    rig.wait(late, 1, replace(call_of(0, 3), left_us=1_000_000_000))
    rig.wait(other, 1, replace(call_of(0, 4), left_us=3_000_000_000))
    rig.clock.ahead_ns += 2 * 10**12
    rig.work.let_go(2)
    assert failure(late, 1) == (False, "no time left")
    check(other, 1, call_of(0, 4))
    assert rig.computed_rows() == [1, 4]
    busy.receive()
    # Time that is left does no harm, and neither does none at all to a call that sets no limit.
    late.send(Kind.EXPERTS, 2, pack_call(replace(call_of(0, 2), left_us=1_000_000_000)))
    rig.work.let_go()
    check(late, 2, call_of(0, 2))
    assert status_of(rig.connect())["expired_calls"] == 1
    assert rig.server.queue.computation.faults == 0


def test_an_idle_shard_computes_no_call_that_is_late(rig: Rig) -> None:
    """As where the machine held this process up between reading the call and computing it."""
    one = rig.connect()
    clock = rig.clock

    def leaping() -> int:
        clock.ahead_ns += 10**9
        return time.monotonic_ns() + clock.ahead_ns

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "__call__", lambda _: leaping())
        one.send(Kind.EXPERTS, 1, pack_call(replace(call_of(0, 2), left_us=1000)))
        assert failure(one, 1) == (False, "no time left")
    assert rig.computed_rows() == []


def test_more_calls_than_may_wait_are_refused_and_may_come_again(rig: Rig) -> None:
    busy = rig.busy()
    few = [rig.connect(1) for _ in range(33)]
    for channel in few[:32]:
        rig.wait(channel, 1, call_of(0, 2))
    few[32].send(Kind.EXPERTS, 1, pack_call(call_of(0, 2)))
    header, payload = few[32].receive()
    assert (header.kind, header.sequence) == (Kind.BUSY, 1)
    assert 1_000 <= Busy.unpacked(payload).retry_us <= 1_000_000
    other = rig.connect(2)
    rig.wait(other, 1, call_of(0, 2))
    rig.work.let_go(3)
    for channel in (*few[:32], other):
        check(channel, 1, call_of(0, 2))
    busy.receive()
    few[32].send(Kind.EXPERTS, 2, pack_call(call_of(0, 2)))
    check(few[32], 2, call_of(0, 2))
    assert status_of(rig.connect())["refused_calls"] == 1


def test_a_miss_names_the_experts_and_the_shards_epoch_whether_it_waits_or_not(rig: Rig) -> None:
    """Also where only computing finds it out, as when an expert was given up meanwhile: the neighbours are computed."""
    elsewhere = replace(call_of(0, 2), experts_A=call_of(0, 2).experts_A + 50)
    busy, one = rig.busy(), rig.connect()
    one.send(Kind.EXPERTS, 1, pack_call(elsewhere))
    header, payload = one.receive()
    assert (header.kind, header.sequence) == (Kind.MISS, 1)
    assert Miss.unpacked(payload) == (5, tuple(sorted(set(elsewhere.experts_A.tolist()))))
    rig.work.let_go()
    busy.receive()


@pytest.mark.parametrize(("fault", "permanent"), [(ValueError("odd"), True), (MemoryError("full"), False)])
def test_a_fault_is_its_own_calls_and_permanent_if_it_is_the_calls(rig: Rig, fault: Exception, permanent: bool) -> None:
    busy, routers, calls = rig.busy(), [rig.connect(n) for n in range(3)], [call_of(0, 2 + n, n) for n in range(3)]
    rig.work.fault, rig.work.poison = fault, calls[1]
    for router, call in zip(routers, calls, strict=True):
        rig.wait(router, 1, call)
    rig.work.let_go(5)
    for n in (0, 2):
        check(routers[n], 1, calls[n])
    assert failure(routers[1], 1) == (permanent, f"{type(fault).__name__}: {fault}")
    assert rig.computed_rows() == [1, 2 + 3 + 4, 2, 3, 4]
    busy.receive()


def test_a_shard_all_of_whose_computations_fail_turns_unhealthy(rig: Rig) -> None:
    one = rig.connect()
    rig.work.let_go(100)
    rig.work.fault = RuntimeError("an illegal memory access was encountered")
    for sequence in range(3):
        rig.server.check_health(60)
        one.send(Kind.EXPERTS, sequence, pack_call(call_of(0, 2)))
        assert failure(one, sequence).permanent is False
    with pytest.raises(
        RuntimeError, match=r"shard 0: the last 3 .*have failed, and so does a sample: an illegal memory"
    ):
        rig.server.check_health(60)
    rig.work.fault = None
    rig.server.check_health(60)


@pytest.mark.parametrize("fault", [ValueError("odd"), MemoryError("full")])
def test_a_shard_is_healthy_whatever_its_routers_ask_for(rig: Rig, fault: Exception) -> None:
    """Somebody repeats a call that cannot be computed; all others can."""
    one = rig.connect()
    rig.work.let_go(100)
    rig.work.fault, rig.work.poison = fault, call_of(3, 2, 77)
    for sequence in range(7):
        one.send(Kind.EXPERTS, sequence, pack_call(rig.work.poison))
        failure(one, sequence)
    rig.server.check_health(60)
    assert rig.server.queue.computation.faults < 3


def test_further_calls_of_a_connection_do_not_disturb_the_one_that_computes(rig: Rig) -> None:
    """They are read ahead with it, behind it and in pieces: its rows stay, and all are answered in their order."""
    one, sizes = rig.connect(), [40, 3, 900, 1, 5000]
    calls = [call_of(0, rows, rows) for rows in sizes]
    for sequence, call in enumerate(calls):
        one.send(Kind.EXPERTS, sequence, pack_call(call))
    until(lambda: len(rig.work.calls) == 1, "the first computes")
    held = threading.Thread(target=rig.work.let_go, args=(len(calls),))
    held.start()
    for sequence, call in enumerate(calls):
        check(one, sequence, call)
    held.join(WAIT_S)
    assert rig.computed_rows() == sizes


def test_a_router_that_hangs_up_behind_several_calls_is_computed_for_no_more(rig: Rig) -> None:
    busy, one = rig.busy(), rig.connect()
    rig.wait(one, 1, call_of(0, 2))
    one.send(Kind.EXPERTS, 2, pack_call(call_of(0, 3)))
    one.close()
    rig.work.let_go()
    busy.receive()
    until(lambda: rig.server.queue.waiting == 0, "it is dropped")
    assert rig.computed_rows() == [1]

"""Signs of life: they come whatever a shard computes, wait for nobody, and tell slow from stuck."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from experts.host.watched_thread import ThreadWatch
from experts.shard.beats import Beats
from experts.shard.progress import Progress
from experts.shard.server import ExpertServer
from experts.transport.call import pack_call
from experts.transport.channel import Channel, connect
from experts.transport.control import Beat
from experts.transport.frame import Kind
from tests.support.mesh import CREDENTIALS, HELLO, NODE, until
from tests.unit.experts.frame_servers import expert_server, status_of
from tests.unit.experts.merge_fakes import WAIT_S, HeldShard, call_of

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A shard's end of a control connection, and the router's."""
    shard, router = (Channel(sock, 1) for sock in socket.socketpair())
    router.set_timeouts(WAIT_S)
    yield shard, router
    shard.close()
    router.close()


@pytest.fixture
def beats() -> Iterator[Beats]:
    """Beats whose thread waits for ever: the test sends them."""
    with closing(Beats(lambda number: Beat(number, 2, 3, 4), ThreadWatch(), seconds=10 * WAIT_S)) as beats:
        yield beats


def beat_of(router: Channel) -> Beat:
    header, payload = router.receive()
    assert header.kind is Kind.BEAT
    return Beat.unpacked(payload)


@pytest.mark.parametrize("draining", [False, True])
def test_a_beat_round_trips(draining: bool) -> None:
    beat = Beat(1, 2, 2**63, 4, draining)
    assert Beat.unpacked(beat.packed()) == beat


def test_each_connection_gets_each_beat(beats: Beats, ends: Ends) -> None:
    beats.send_all()
    beats.add(ends[0])
    beats.send_all()
    beats.send_all()
    assert [beat_of(ends[1]) for _ in range(2)] == [Beat(2, 2, 3, 4), Beat(3, 2, 3, 4)]
    beats.remove(ends[0])
    beats.send_all()
    assert ends[1].poll() is None


def test_who_does_not_read_gets_no_old_beats_and_holds_nobody_up(beats: Beats, ends: Ends) -> None:
    """Its socket full, it gets the rest of what was begun, and then the beat of that moment."""
    shard, router = ends
    beats.add(shard)
    shard.post(Kind.STATUS, 1, [bytes(64 << 20)])
    kept = shard.unsent_bytes
    assert kept > 0
    for _ in range(100):
        beats.send_all()
    assert 0 < shard.unsent_bytes <= kept
    status = list[int]()
    reading = threading.Thread(target=lambda: status.append(router.receive()[0].length))
    reading.start()
    while reading.is_alive():
        beats.send_all()
    assert status == [64 << 20]
    beats.send_all()
    number, last = beat_of(router).number, None
    while (frame := router.poll()) is not None:
        last = Beat.unpacked(frame[1]).number
    assert number > 100
    assert last is None or last > number


class Gone(Channel):
    """A channel whose peer has gone; counts how often that was noticed."""

    noticed = 0

    def flush(self) -> bool:
        self.noticed += 1
        raise BrokenPipeError


def test_who_has_gone_is_forgotten(beats: Beats, ends: Ends) -> None:
    near, far = socket.socketpair()
    with near, far:
        gone = Gone(near, 1)
        for channel in (gone, ends[0]):
            beats.add(channel)
        beats.send_all()
        beats.send_all()
    assert gone.noticed == 1
    assert [beat_of(ends[1]).number for _ in range(2)] == [1, 2]


def test_the_thread_beats_by_the_normal_policy_and_ends_when_told(ends: Ends) -> None:
    policies = list[int]()

    def beat(number: int) -> Beat:
        policies.append(os.sched_getscheduler(0))
        return Beat(number, 0, 0, 0)

    def run() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # as the processes of shards do; threads inherit it
        with closing(Beats(beat, ThreadWatch(), "pulse", seconds=0.001)) as beats:
            beats.add(ends[0])
            beat_of(ends[1])

    starter = threading.Thread(target=run)
    starter.start()
    starter.join(WAIT_S)
    assert set(policies) == {os.SCHED_OTHER}
    assert "pulse" not in [thread.name for thread in threading.enumerate()]


class Cpu:
    """A CPU clock that tests set, and the time that goes on meanwhile."""

    def __init__(self) -> None:
        self.used_ms = 1000
        self.now_ns = 0
        self.gone = False

    def read(self, _: int) -> int:
        """The clock's time; a thread that has ended has none."""
        if self.gone:
            raise OSError(22, "Invalid argument")
        return self.used_ms * 1_000_000


def test_progress_grows_with_steps_and_with_a_running_computations_cpu_time() -> None:
    cpu = Cpu()
    progress, seen = Progress(lambda: cpu.now_ns, cpu.read), list[int]()

    def sample(grows: bool) -> None:
        cpu.now_ns += 1
        seen.append(progress.sample())
        assert (progress.still_since_ns == cpu.now_ns) is grows

    assert progress.sample() == 0
    progress.begin()
    sample(grows=True)
    sample(grows=False)
    cpu.used_ms += 7
    sample(grows=True)
    assert seen[-1] == seen[-2] + 7
    progress.step()
    sample(grows=True)
    cpu.gone = True
    sample(grows=False)
    progress.end()
    sample(grows=True)
    progress.begin()
    cpu.gone, cpu.used_ms = False, 3  # another thread's clock
    progress.end()
    sample(grows=True)
    sample(grows=False)
    assert seen == sorted(seen)


def spin(rounds: list[int], over: threading.Event) -> None:
    while not over.is_set():
        rounds.append(sum(range(1000)))


@pytest.mark.parametrize("busy", [True, False])
def test_a_thread_that_computes_progresses_and_one_that_waits_does_not(busy: bool) -> None:
    progress, over, begun = Progress(), threading.Event(), threading.Event()

    def compute() -> None:
        progress.begin()
        begun.set()
        if busy:
            spin([], over)
        over.wait(WAIT_S)
        progress.end()

    thread = threading.Thread(target=compute)
    thread.start()
    assert begun.wait(WAIT_S)
    first = progress.sample()
    if busy:
        until(lambda: progress.sample() > first + 20, "it progresses")
    else:
        # Whatever it used to come to its wait, then there is no more.
        until(lambda: progress.sample() == progress.sample(), "it stands still")
        still = progress.sample()
        assert [progress.sample() for _ in range(1000)] == [still] * 1000
    over.set()
    thread.join(WAIT_S)


@pytest.fixture
def server() -> Iterator[ExpertServer]:
    shard = HeldShard()
    server = expert_server(shard)
    yield server
    shard.compute.let_go(100)
    server.close()


def joined(server: ExpertServer) -> Channel:
    channel = connect(server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO)
    channel.set_timeouts(WAIT_S)
    return channel


def beat_that(control: Channel, wanted: Callable[[Beat], bool]) -> Beat:
    """The first such beat; each has a higher number, and no less progress, than the one before."""
    last = beat_of(control)
    while not wanted(last):
        beat = beat_of(control)
        assert beat.number > last.number
        assert beat.progress >= last.progress
        last = beat
    return last


def test_beats_come_while_a_call_computes_and_another_waits(server: ExpertServer) -> None:
    with closing(joined(server)) as control, closing(joined(server)) as one, closing(joined(server)) as other:
        status_of(control)
        assert beat_that(control, lambda _: True)[1:] == (0, 0, 0, False)
        for router in (one, other):
            router.send(Kind.EXPERTS, 1, pack_call(call_of(0, 3)))
        beat = beat_that(control, lambda beat: beat.queue == 1 and beat.current > 0)
        assert beat.current == server.queue.computation.since_ns
        server.shard.compute.let_go(2)  # type: ignore[attr-defined]
        after = beat_that(control, lambda beat: (beat.queue, beat.current) == (0, 0))
        assert after.progress >= beat.progress + 2
        server.drain()
        beat_that(control, lambda beat: beat.draining)
        assert status_of(control)["draining"] is True
        one.receive()


def test_a_connection_that_carries_calls_gets_no_beats(server: ExpertServer) -> None:
    with closing(joined(server)) as control, closing(joined(server)) as calls:
        status_of(control)
        first = beat_of(control)
        calls.send(Kind.EXPERTS, 1, pack_call(call_of(0, 3)))
        beat_that(control, lambda beat: beat.number > first.number + 3 and beat.current > 0)
        server.shard.compute.let_go()  # type: ignore[attr-defined]
        assert calls.receive()[0].kind is Kind.PARTIALS


class Clock:
    """This machine's, moved on by as much as a test says."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.ahead_ns


def test_health_is_about_progress_and_not_about_how_long_a_computation_takes() -> None:
    clock, shard = Clock(), HeldShard()
    server = expert_server(shard, clock_ns=clock)
    with closing(server), closing(joined(server)) as calls:
        clock.ahead_ns += 10**12  # idle for long
        calls.send(Kind.EXPERTS, 1, pack_call(call_of(0, 3)))
        until(lambda: len(shard.compute.calls) == 1, "it computes")
        for _ in range(3):
            server.queue.computation.progress.step()
            server.check_health(500.0)
            clock.ahead_ns += 4 * 10**11
            server.check_health(500.0)
        until(
            lambda: server.queue.computation.progress.sample() == server.queue.computation.progress.sample(), "it waits"
        )
        clock.ahead_ns += 6 * 10**11
        with pytest.raises(RuntimeError, match="shard 0: a computation has stood still for over 500 s"):
            server.check_health(500.0)
        shard.compute.let_go()
        calls.receive()
        clock.ahead_ns += 10**12
        server.check_health(500.0)


def test_an_added_delay_progresses(server: ExpertServer) -> None:
    """As a slow shard does."""
    server.delay_s = 10 * WAIT_S
    with closing(joined(server)) as control, closing(joined(server)) as calls:
        status_of(control)
        calls.send(Kind.EXPERTS, 1, pack_call(call_of(0, 3)))
        begun = beat_that(control, lambda beat: beat.current > 0)
        beat_that(control, lambda beat: beat.progress > begun.progress + 5)
        server.delay_s = 0.0


def ask_on(control: Channel) -> None:
    while True:
        control.send(Kind.STATUS, 1, [])


def test_who_asks_and_never_reads_is_hung_up_on(server: ExpertServer) -> None:
    """What is kept for it would grow without bound."""
    with closing(joined(server)) as control, closing(joined(server)) as good:
        with pytest.raises(ConnectionError):
            ask_on(control)
        assert server.rejected == {"unread": 1}
        status_of(good)


ODD: dict[str, Callable[[Channel], object]] = {
    "no HELLO": lambda peer: peer.send(Kind.STATUS, 1, []),
    "two of them": lambda peer: [peer.send(Kind.HELLO, 1, [HELLO.packed()]) for _ in range(2)],
    "calls where control is": lambda peer: _say(peer, (Kind.STATUS, []), (Kind.EXPERTS, pack_call(call_of(0, 1)))),
    "control where calls are": lambda peer: _say(peer, (Kind.SHARE, [bytes(16)]), (Kind.STATUS, [])),
}


def read_on(peer: Channel) -> None:
    while True:
        peer.receive()


def _say(peer: Channel, *frames: tuple[Kind, list[bytes]]) -> None:
    peer.send(Kind.HELLO, 1, [HELLO.packed()])
    for kind, parts in frames:
        peer.send(kind, 1, parts)


@pytest.mark.parametrize("oddity", ODD)
def test_frames_out_of_place_end_the_connection(server: ExpertServer, oddity: str) -> None:
    with closing(connect(server.endpoint, NODE, CREDENTIALS, WAIT_S)) as peer:
        peer.set_timeouts(WAIT_S)
        ODD[oddity](peer)
        with pytest.raises(ConnectionError):
            read_on(peer)
        assert server.rejected == {"kind": 1}

"""A shard on sockets: strangers are closed and counted by reason, and good peers are answered all the while."""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from experts.host.watched_thread import ThreadWatch
from experts.shard.server import ExpertServer
from experts.shard.shard import ExpertShard
from experts.transport.address import Endpoint
from experts.transport.call import ExpertCall, pack_call, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.control import Failure, Miss
from experts.transport.frame import HEADER, MAGIC, VERSION, FrameError, Kind, pack_header
from experts.transport.listener import HANDSHAKE_SECONDS
from experts.transport.trust.handshake import client_handshake
from tests.support.mesh import CREDENTIALS, HELLO, NODE, load_shards, until
from tests.support.tiny import Tiny
from tests.unit.experts.frame_servers import Echo, echo, frame_server, status_of


@pytest.fixture
def server(tiny: Callable[..., Tiny]) -> Iterator[ExpertServer]:
    shard = load_shards(tiny("mixtral").plan, 2)[0]
    server = ExpertServer(shard, credentials=CREDENTIALS, host="127.0.0.1", node=NODE, replica="r0")
    yield server
    server.close()


def question(rows: int = 2) -> ExpertCall:
    places = np.zeros(rows, np.int32)
    return ExpertCall(0, torch.ones(rows, 48), np.arange(rows, dtype=np.int32), places, np.ones(rows, np.float32))


def ask(channel: Channel, sequence: int = 1) -> torch.Tensor:
    channel.send(Kind.EXPERTS, sequence, pack_call(question()))
    header, payload = channel.receive()
    assert (header.kind, header.sequence) == (Kind.PARTIALS, sequence)
    return unpack_partial(payload).y_ND.clone()


def join(server: ExpertServer, node: str = NODE) -> closing[Channel]:
    return closing(connect(server.endpoint, node, CREDENTIALS, 10.0, hello=HELLO))


@contextmanager
def proven(endpoint: Endpoint) -> Iterator[tuple[Channel, socket.socket]]:
    """A channel that has proved itself, and its socket, for what no channel would send."""
    with raw(endpoint, "unix") as sock:
        peer = Channel(sock, endpoint.incarnation)
        peer.carry_out(client_handshake(CREDENTIALS, endpoint.incarnation))
        yield peer, sock


def raw(endpoint: Endpoint, way: str) -> socket.socket:
    if way == "tcp":
        return socket.create_connection((endpoint.host, endpoint.port), timeout=10)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(endpoint.unix_address)
    return sock


def read_to_the_end(sock: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionResetError):
        while piece := sock.recv(4096):
            data += piece
    return data


def header(kind: int, incarnation: int, length: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, kind, 0, 0, incarnation, 0, length, 0, 0)


STRANGERS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "an HTTP request": ("magic", lambda _: b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: */*\r\n\r\n"),
    "a wrong secret": ("secret", lambda life: header(Kind.PROOF, life, 64) + bytes(64)),
    "a proof cut short": ("secret", lambda life: header(Kind.PROOF, life, 3) + bytes(3)),
    "a header cut short": ("short", lambda life: header(Kind.PROOF, life, 64)[:30]),
    "a payload cut short": ("short", lambda life: header(Kind.PROOF, life, 64) + bytes(10)),
    "a huge length": ("length", lambda life: header(Kind.PROOF, life, 1 << 62)),
    "a length over a handshake's": ("length", lambda life: header(Kind.PROOF, life, 257)),
    "a stale incarnation": ("incarnation", lambda life: header(Kind.PROOF, life ^ 1, 64) + bytes(64)),
    "a question before the proof": ("handshake", lambda life: header(Kind.EXPERTS, life, 0)),
    "another version": ("version", lambda _: MAGIC + bytes([VERSION + 1]) + bytes(35)),
}


@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_are_closed_and_counted(server: ExpertServer, stranger: str, way: str) -> None:
    reason, say = STRANGERS[stranger]
    with join(server) as good, raw(server.endpoint, way) as sock:
        before = ask(good)
        sock.sendall(say(server.endpoint.incarnation))
        with suppress(OSError):  # it may have hung up already
            sock.shutdown(socket.SHUT_WR)
        assert len(read_to_the_end(sock)) in (0, HEADER.size + 32), "nothing but the challenge, then the end"
        until(lambda: bool(server.rejected), "the stranger is counted")
        assert server.rejected == {reason: 1}
        assert torch.equal(ask(good), before)
        with join(server) as another:
            assert torch.equal(ask(another), before)
        server.check_health(10)


PEERS: dict[str, tuple[str, Callable[[Channel], None]]] = {
    "a kind that shards do not take": ("kind", lambda peer: peer.send(Kind.MESSAGE, 1, [b"hello"])),
    "a question cut short": ("length", lambda peer: peer.send(Kind.EXPERTS, 1, [*pack_call(question())][:-1])),
    "a question of nothing": ("short", lambda peer: peer.send(Kind.EXPERTS, 1, [])),
    "a stale incarnation": ("incarnation", lambda peer: _as_another_life(peer)),
}


def _as_another_life(peer: Channel) -> None:
    peer.incarnation ^= 1
    peer.send(Kind.EXPERTS, 1, pack_call(question()))


@pytest.mark.parametrize("peer", PEERS)
def test_proven_peers_that_go_astray_are_closed_too(server: ExpertServer, peer: str) -> None:
    reason, misbehave = PEERS[peer]
    with join(server) as good, join(server) as bad:
        misbehave(bad)
        bad.incarnation = server.endpoint.incarnation
        with pytest.raises(ConnectionError):
            bad.receive()
        assert server.rejected == {reason: 1}
        ask(good)


def test_a_damaged_frame_is_refused_where_checksums_are_on(server: ExpertServer) -> None:
    with join(server) as good, proven(server.endpoint) as (bad, sock):
        payload = b"".join(pack_call(question()))
        frame = pack_header(Kind.EXPERTS, bad.incarnation, 1, [payload], checksum=True) + payload
        sock.sendall(frame[:-9] + bytes([frame[-9] ^ 1]) + frame[-8:])
        with pytest.raises(ConnectionError):
            bad.receive()
        assert server.rejected == {"checksum": 1}
        ask(good)


def test_a_question_that_cannot_be_computed_is_answered_so(server: ExpertServer) -> None:
    """The fault is the question's, not the connection's."""
    server.shard.epoch = 9
    with join(server) as peer:
        peer.send(Kind.EXPERTS, 4, pack_call(replace(question(), layer=99)))
        answer, payload = peer.receive()
        assert (answer.kind, answer.sequence) == (Kind.MISS, 4)
        assert Miss.unpacked(payload) == Miss(9, (0,))
        peer.send(Kind.EXPERTS, 5, pack_call(replace(question(), x_RD=torch.ones(2, 47))))
        answer, payload = peer.receive()
        assert (answer.kind, answer.sequence) == (Kind.FAILURE, 5)
        wanted = "shard 0 computes torch.float32 of width 48, not torch.float32 of width 47"
        assert Failure.unpacked(payload) == (True, f"ValueError: {wanted}")
        ask(peer)
    assert server.rejected == {}


def test_silent_peers_are_closed_before_the_proof_only() -> None:
    """Only those who are silent have little time: a busy machine may keep the good ones' proofs for as long."""
    server = frame_server(Echo())
    with closing(connect(server.endpoint, NODE, CREDENTIALS, 10.0)) as good:
        echo(good)  # so it has the time of the proven, as that was
        server.handshake_s = 0.1
        with raw(server.endpoint, "unix") as silent, raw(server.endpoint, "tcp") as slow:
            slow.sendall(header(Kind.PROOF, server.endpoint.incarnation, 64)[:7])
            for sock in (silent, slow):
                assert len(read_to_the_end(sock)) == HEADER.size + 32
        until(lambda: server.rejected["timeout"] == 2, "both are counted")
        echo(good)
        server.handshake_s, server.frame_s = HANDSHAKE_SECONDS, 0.1
        with proven(server.endpoint) as (halting, sock):
            sock.sendall(header(Kind.EXPERTS, halting.incarnation, 1000))
            with pytest.raises(ConnectionError):
                halting.receive()
        assert server.rejected == {"timeout": 3}
        echo(good)
    server.close()


def test_who_answers_must_know_the_secret_too(server: ExpertServer) -> None:
    with pytest.raises(ConnectionError):
        connect(server.endpoint, NODE, replace(CREDENTIALS, secret=b"another secret"), 10.0)
    with pytest.raises(FrameError, match="incarnation"):
        connect(replace(server.endpoint, incarnation=1), NODE, CREDENTIALS, 10.0)
    until(lambda: server.rejected["secret"] == 1, "the client is counted")


def test_the_listener_is_on_loopback_alone(server: ExpertServer) -> None:
    listening = [c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    ours = [address for address in listening if address.port == server.endpoint.port]
    assert [ipaddress.ip_address(address.ip).is_loopback for address in ours] == [True]


def test_status_does_not_wait_for_a_computation(tiny: Callable[..., Tiny]) -> None:
    """A second connection is served while the first one's question computes; a second question queues."""
    shard = load_shards(tiny("mixtral").plan, 1)[0]
    go, readings = threading.Event(), list[int]()

    def clock_ns() -> int:
        readings.append(time.monotonic_ns())
        return readings[-1]

    server = ExpertServer(shard, credentials=CREDENTIALS, host="127.0.0.1", node=NODE, replica="r0", clock_ns=clock_ns)
    server.shard = Held(shard, go)  # type: ignore[assignment]
    with join(server) as busy, join(server) as other, join(server) as control:
        for peer in (busy, other):
            peer.send(Kind.EXPERTS, 1, pack_call(question()))
        # The receipt of both questions, and the start of one.
        until(lambda: server.computing and len(readings) == 3, "it computes, and has the other question")
        before = set(readings)
        assert status_of(control)["assignments"] == 0
        with pytest.raises(RuntimeError, match="stood still"):
            server.check_health(0.0)
        freed = time.monotonic_ns()
        go.set()
        stamps = sorted((unpack_partial(p.receive()[1]).stamps for p in (busy, other)), key=lambda s: s.started)
        assert stamps[1].started >= stamps[0].sent >= freed
        assert {stamps[0].started, *(one.received for one in stamps)} == before
        status = status_of(control)
        assert (status["assignments"], status["experts"]) == (4, 6 * 3)
        assert status["weights_bytes"] == 3 * 6 * 3 * 48 * 40 * 4
    server.close()


class Held:
    """A shard that computes once `go` is set."""

    def __init__(self, shard: ExpertShard, go: threading.Event) -> None:
        self.shard = shard
        self.go = go

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shard, name)

    def compute(self, call: ExpertCall) -> torch.Tensor:
        self.go.wait(60)
        return self.shard.compute(call)


def test_close_ends_every_connection_and_health(server: ExpertServer) -> None:
    with join(server) as peer, join(server, "elsewhere") as other:
        server.close()
        for channel in (peer, other):
            with pytest.raises(ConnectionError):
                channel.receive()
        with pytest.raises(RuntimeError, match="data thread has died"):
            server.check_health(10)
        with pytest.raises(OSError, match="refused"):
            join(server)
        with pytest.raises(OSError, match="refused"):
            join(server, "elsewhere")
    assert server.rejected == {}


def test_a_connection_that_comes_while_the_server_closes_is_ended() -> None:
    """Accepted, but not yet known to `close`."""

    held, known = threading.Event(), threading.Event()

    class Late(ThreadWatch):
        """A connection's thread is late to begin."""

        def start(self, kind: str, target: Callable[..., object], *args: Any, **options: Any) -> threading.Thread:
            def begin(*these: object) -> None:
                held.set()
                known.wait(60)
                target(*these)

            return super().start(kind, begin if kind == "connection" else target, *args, **options)

    class Deaf:
        def opened(self, channel: Channel) -> None: ...
        def frame(self, *_: object) -> None: ...
        def closed(self, channel: Channel) -> None: ...

    late = frame_server(Deaf(), threads=Late())
    with raw(late.endpoint, "unix") as sock:
        assert held.wait(60)
        late.close()
        known.set()
        assert read_to_the_end(sock) == b""


class Fragile:
    """A handler that breaks at each frame."""

    def opened(self, channel: Channel) -> None: ...

    def frame(self, *_: object) -> None:
        raise LookupError("out of luck")

    def closed(self, channel: Channel) -> None: ...


def test_a_connection_that_breaks_is_counted_and_ended_and_the_next_is_served() -> None:
    watch = ThreadWatch()
    server = frame_server(Fragile(), threads=watch)
    for number in (1, 2):
        with closing(connect(server.endpoint, NODE, CREDENTIALS, 10.0)) as peer:
            peer.send(Kind.STATUS, 1, [])
            with pytest.raises(ConnectionError):
                peer.receive()
        until(lambda number=number: watch.failures.get("connection") == number, "it is counted")
    watch.check()
    assert server.alive()
    server.close()


def test_a_listener_outlives_a_want_of_threads_and_is_missed_when_it_breaks() -> None:
    class Scarce(ThreadWatch):
        """Has no thread for the next connection; then its listeners break."""

        left = 1

        def start(self, kind: str, *args: Any, **options: Any) -> threading.Thread:
            if kind == "connection" and self.left:
                self.left -= 1
                raise RuntimeError("can't start new thread")
            if kind == "connection":
                args[1].close()
                raise LookupError("out of luck")
            return super().start(kind, *args, **options)

    watch = Scarce()
    server = frame_server(Fragile(), threads=watch)
    with raw(server.endpoint, "unix") as sock:
        assert read_to_the_end(sock) == b""
    watch.check()
    with raw(server.endpoint, "unix"):
        until(lambda: watch.failures.get("listener") == 1, "it is counted")
    with pytest.raises(RuntimeError, match="threads have died: shard 0 listener"):
        watch.check()
    server.close()


def test_a_shards_status_and_health_tell_of_its_threads(tiny: Callable[..., Tiny]) -> None:
    watch = ThreadWatch()
    shard = load_shards(tiny("mixtral").plan, 2)[0]
    server = ExpertServer(shard, credentials=CREDENTIALS, host="127.0.0.1", node=NODE, replica="r0", watch=watch)
    with join(server) as peer:
        assert status_of(peer)["thread_failures"] == {}
    watch.start("announcer", lambda: None, lasts_until=lambda: False).join(60)
    with join(server) as peer:
        assert status_of(peer)["thread_failures"] == {"announcer": 1}
    with pytest.raises(RuntimeError, match="threads have died: announcer"):
        server.check_health(10)
    server.close()

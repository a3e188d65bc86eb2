"""Who has not proven the credentials gets little: one deadline for all of it, few places, and nobody else's."""

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest

from experts.host.watched_thread import ThreadWatch
from experts.shard.server import ExpertServer
from experts.transport.address import Endpoint
from experts.transport.call import pack_call
from experts.transport.channel import Channel, connect
from experts.transport.frame import HEADER, Kind, pack_header
from experts.transport.listener import FrameServer
from experts.transport.peers import Peers
from tests.support.mesh import CREDENTIALS, HELLO, NODE, until
from tests.unit.experts.frame_servers import Echo, echo, expert_server, frame_server, status_of
from tests.unit.experts.merge_fakes import WAIT_S, HeldShard, call_of

CHALLENGE_BYTES = HEADER.size + 32


class Door:
    """Opens servers and connections, and closes them in the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def server(self, **options: Any) -> FrameServer:
        """A server that echoes."""
        server = frame_server(Echo(), **options)
        self._stack.callback(server.close)
        return server

    def stranger(self, endpoint: Endpoint) -> socket.socket:
        """A connection that has been accepted, as its challenge tells, and says nothing."""
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(WAIT_S)
        sock.connect(endpoint.unix_address)
        assert len(sock.recv(CHALLENGE_BYTES, socket.MSG_WAITALL)) == CHALLENGE_BYTES
        return sock

    def peer(self, endpoint: Endpoint) -> Channel:
        """A connection that has proven itself, and been heard."""
        channel = self._stack.enter_context(closing(connect(endpoint, NODE, CREDENTIALS, WAIT_S)))
        channel.set_timeouts(WAIT_S)
        echo(channel)
        return channel


@pytest.fixture
def door() -> Iterator[Door]:
    with ExitStack() as stack:
        yield Door(stack)


def ended(sock: socket.socket) -> bool:
    """Whether the other end hangs up without another byte; waits for it."""
    with suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def drip(sock: socket.socket, data: bytes, pause_s: float = 0.05) -> int:
    """Send byte after byte with a pause behind each, until all are sent or the peer hangs up; how many it were."""
    pause = threading.Event()
    for number in range(len(data)):
        try:
            sock.sendall(data[number : number + 1])
        except OSError:
            return number
        pause.wait(pause_s)
    return len(data)


def test_a_stranger_has_one_deadline_however_often_it_sends_a_byte(door: Door) -> None:
    """No pause is as long as the deadline, but what it sends would take 20 times as long."""
    server = door.server()
    good = door.peer(server.endpoint)
    server.handshake_s = 0.25
    slow = door.stranger(server.endpoint)
    proof = pack_header(Kind.PROOF, server.endpoint.incarnation, 0, [bytes(96)]) + bytes(96)
    assert drip(slow, proof) < len(proof)
    until(lambda: server.rejected == {"timeout": 1}, "it is counted")
    echo(good)


def test_who_dials_has_one_deadline_too(door: Door) -> None:
    """As behind a relay that lets a byte through now and then, or towards a stranger at the address."""
    sent = list[int]()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel chooses a name
        listener.listen()
        endpoint = _at(door.server().endpoint, listener)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                challenge = pack_header(Kind.CHALLENGE, endpoint.incarnation, 0, [bytes(32)]) + bytes(32)
                sent.append(drip(sock, challenge))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(TimeoutError):
            connect(endpoint, NODE, CREDENTIALS, 0.25)
        thread.join(WAIT_S)
    assert sent[0] < CHALLENGE_BYTES


def _at(endpoint: Endpoint, listener: socket.socket) -> Endpoint:
    return replace(endpoint, unix_name=listener.getsockname().decode().lstrip("\0"))


def test_of_too_many_strangers_the_oldest_goes_and_who_proves_itself_stays(door: Door) -> None:
    server = door.server(peers=Peers(most_strangers=2))
    good = door.peer(server.endpoint)
    first, second, third = (door.stranger(server.endpoint) for _ in range(3))
    assert ended(first)
    until(lambda: server.rejected == {"too_many": 1}, "it is counted")
    another = door.peer(server.endpoint)  # a stranger at first, so the second one goes
    assert ended(second)
    until(lambda: server.rejected == {"too_many": 2}, "it is counted")
    for peer in (good, another):
        echo(peer)
    assert server.connections == 2
    third.close()
    until(lambda: server.rejected["short"] + server.rejected["io"] == 0, "who leaves is no fault")


def test_over_the_bound_for_all_nobody_who_has_proven_itself_goes(door: Door) -> None:
    server = door.server(peers=Peers(most=2))
    good = [door.peer(server.endpoint) for _ in range(2)]
    with pytest.raises(ConnectionError):
        door.peer(server.endpoint)
    until(lambda: server.rejected == {"too_many": 1}, "it is counted")
    for peer in good:
        echo(peer)
    good[0].close()
    until(lambda: server.connections == 1, "its place is free")
    echo(door.peer(server.endpoint))


def test_a_stranger_gives_its_place_up_where_all_are_taken(door: Door) -> None:
    server = door.server(peers=Peers(most=2))
    good, stranger = door.peer(server.endpoint), door.stranger(server.endpoint)
    echo(door.peer(server.endpoint))
    assert ended(stranger)
    echo(good)


class Scarce(ThreadWatch):
    """Has no thread for so many connections."""

    missing = 3

    def start(self, kind: str, *args: Any, **options: Any) -> threading.Thread:
        if kind == "connection" and self.missing:
            self.missing -= 1
            raise RuntimeError("can't start new thread")
        return super().start(kind, *args, **options)


def test_want_of_threads_ends_connections_and_not_the_listener(door: Door) -> None:
    watch = Scarce()
    server = door.server(threads=watch)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            door.peer(server.endpoint)
    assert server.rejected == {"no_thread": 3}
    echo(door.peer(server.endpoint))
    watch.check()
    assert server.alive()


def test_a_closed_shard_leaves_no_thread_and_no_descriptor() -> None:
    """Whatever its connections were at: calls, control, shared memory, a handshake."""
    gc.collect()  # what earlier tests have left must not go meanwhile
    process = psutil.Process()
    before, threads = process.num_fds(), set(threading.enumerate())
    shard = HeldShard()
    shard.compute.let_go(1000)
    server = expert_server(shard)
    with ExitStack() as stack:
        peers = [stack.enter_context(closing(_joined(server, node))) for node in (NODE, "elsewhere", NODE)]
        peers[0].send(Kind.SHARE, 1, [(1 << 16).to_bytes(8, "little") * 2])
        peers[0].receive()
        for peer in peers[:2]:
            peer.send(Kind.EXPERTS, 2, pack_call(call_of(0, 4)))
            peer.receive()
        status_of(peers[2])
        Door(stack).stranger(server.endpoint)
        server.hang_up()
        until(lambda: not [one for one in threading.enumerate() if one.name == "shard 0 data"], "all have ended")
        stack.enter_context(closing(_joined(server, NODE)))
        server.close()
        assert set(threading.enumerate()) <= threads
    gc.collect()
    assert process.num_fds() <= before
    assert server.rejected == {}


def _joined(server: ExpertServer, node: str) -> Channel:
    channel = connect(server.endpoint, node, CREDENTIALS, WAIT_S, hello=HELLO)
    channel.set_timeouts(WAIT_S)
    return channel

"""Memory that router and shard share: rows go there, nothing else does; and whoever has none gets on without."""

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.shard.server import ExpertServer
from experts.transport.base import Reply, Sent, ShardUnavailable
from experts.transport.call import (
    INLINE_BYTES,
    ExpertCall,
    Form,
    Partial,
    Stamps,
    pack_call,
    pack_partial,
    shared_sizes,
    unpack_call,
    unpack_partial,
)
from experts.transport.channel import Channel, connect
from experts.transport.frame import FrameError, Kind, pack_header
from experts.transport.shared import SIZES, SharedSizes
from experts.transport.socket import SocketTransport
from tests.support.mesh import CREDENTIALS, HELLO, NODE, WAIT_S, load_shards, until
from tests.support.relay import Relay
from tests.support.tiny import Tiny

ROOM = SharedSizes(1 << 14, 1 << 14)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def server(tiny: Callable[..., Tiny]) -> Iterator[ExpertServer]:
    shard = load_shards(tiny("mixtral").plan, 2)[0]
    with closing(ExpertServer(shard, credentials=CREDENTIALS, host="127.0.0.1", node=NODE, replica="r0")) as server:
        yield server


def call_of(rows: int, form: Form = Form.SUMS) -> ExpertCall:
    numbers = np.arange(rows, dtype=np.int32)
    x_RD = torch.randn(rows, 48, generator=torch.Generator().manual_seed(rows))
    return ExpertCall(0, x_RD, numbers, np.zeros(rows, np.int32), np.ones(rows, np.float32), form=form)


def joined(server: ExpertServer, share: SharedSizes | None = ROOM, node: str = NODE) -> closing[Channel]:
    return closing(connect(server.endpoint, node, CREDENTIALS, WAIT_S, hello=HELLO, share=share))


def asked(channel: Channel, call: ExpertCall) -> tuple[Reply | ShardUnavailable, Sent]:
    """A call by the transport over this channel, which it closes."""
    channel.set_timeouts(WAIT_S)
    with closing(SocketTransport()) as transport:
        transport.offer(0, channel)
        sent = transport.send(0, call, 0)
        result = transport.receive(time.monotonic() + WAIT_S)
        if isinstance(result, Reply):  # its rows lie in what closes with the channel
            result = result._replace(partial=replace(result.partial, y_ND=result.partial.y_ND.clone()))
        return result, sent


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("rows", [1, 80, 200])
def test_replies_and_sizes_are_those_of_the_socket(server: ExpertServer, rows: int, form: Form) -> None:
    """A row is too small and 200 are too large for shared memory: they go by the socket."""
    call, found = call_of(rows, form), []
    for share in (None, ROOM):
        channel = connect(server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO, share=share)
        assert (channel.shared is None) == (share is None)
        before = channel.sent_bytes
        reply, sent = asked(channel, call)
        assert isinstance(reply, Reply)
        found.append((reply.partial.y_ND.clone(), sent.wire_bytes, reply.wire_bytes))
        apart = share is not None and INLINE_BYTES < call.x_RD.nbytes <= ROOM.calls
        assert channel.sent_bytes - before == sent.wire_bytes - (call.x_RD.nbytes if apart else 0)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_what_the_router_asks_for_holds_its_largest_call() -> None:
    sizes = shared_sizes(85, 48, torch.float32, 3, Form.EACH)
    assert sizes == (85 * 48 * 4, 85 * 48 * 4 * 3)


def test_tcp_and_checksums_share_nothing(server: ExpertServer) -> None:
    with joined(server, node="another node") as channel:
        assert channel.shared is None
    with closing(connect(server.endpoint, NODE, CREDENTIALS, WAIT_S, True, ROOM, HELLO)) as channel:
        assert channel.shared is None


def test_a_relay_that_passes_no_descriptors_on_leaves_the_socket(server: ExpertServer) -> None:
    relay = Relay(server.endpoint, NODE)
    channel = connect(relay.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO, share=ROOM)
    assert channel.shared is None
    reply, _ = asked(channel, call_of(80))
    assert isinstance(reply, Reply)
    relay.close()


def test_a_machine_without_descriptors_leaves_the_socket(server: ExpertServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    channel = connect(server.endpoint, NODE, CREDENTIALS, WAIT_S, hello=HELLO, share=ROOM)
    assert channel.shared is None
    reply, _ = asked(channel, call_of(80))
    assert isinstance(reply, Reply)


def test_who_has_not_proven_the_secret_gets_nothing(server: ExpertServer) -> None:
    """A request in place of the proof ends the connection, and no descriptor comes before its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(server.endpoint.unix_address)
        _, before, _, _ = socket.recv_fds(sock, 1 << 12, 4)  # the challenge
        request = SIZES.pack(*ROOM)
        sock.sendall(pack_header(Kind.SHARE, server.endpoint.incarnation, 0, [request]) + request)
        data, after = b"?", list[int]()
        with contextlib.suppress(ConnectionError):
            data, after, _, _ = socket.recv_fds(sock, 1 << 12, 4)
    assert (before, after) == ([], [])
    assert data in (b"", b"?")
    until(lambda: server.rejected["handshake"] == 1, "it is refused")


@pytest.mark.parametrize("request_", [b"", SIZES.pack(1 << 40, 1), SIZES.pack(1, 1) + b"0"])
def test_a_request_that_is_none_of_ours_ends_the_connection(server: ExpertServer, request_: bytes) -> None:
    with joined(server, None) as channel:
        channel.set_timeouts(WAIT_S)
        channel.send(Kind.SHARE, 0, [request_])
        with pytest.raises(ConnectionError):
            channel.receive()


def test_regions_cannot_shrink(server: ExpertServer) -> None:
    """Or a peer could make the other's read of them a fault of its process."""
    inherited: list[int] = []
    real = socket.recv_fds

    def kept(*args: int | socket.socket) -> tuple[bytes, list[int], int, object]:
        data, descriptors, flags, address = real(*args)  # type: ignore[arg-type]
        inherited.extend(os.dup(fd) for fd in descriptors)
        return data, descriptors, flags, address

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "recv_fds", kept)
        with joined(server):
            pass
    assert len(inherited) == 2
    for fd in inherited:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        os.close(fd)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_region_that_could_shrink_or_is_too_small_is_refused(sealed: bool) -> None:
    ours, theirs = socket.socketpair()
    fds = [os.memfd_create("test", os.MFD_ALLOW_SEALING) for _ in range(2)]
    for fd in fds:
        os.ftruncate(fd, 10 if sealed else 1 << 20)
        if sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    reply = SIZES.pack(*ROOM)
    frame = pack_header(Kind.SHARE, 5, 0, [reply]) + reply
    answering = threading.Thread(target=socket.send_fds, args=(theirs, [frame], fds))
    answering.start()
    with closing(Channel(ours, 5)) as channel, pytest.raises(FrameError, match="sealed"):
        channel.ask_to_share(ROOM)
    answering.join(WAIT_S)
    theirs.close()
    for fd in fds:
        os.close(fd)


@given(
    st.integers(0, 6),
    st.sampled_from([1, 700, 3001]),
    st.sampled_from(DTYPES),
    st.sampled_from([0, 1 << 13, 1 << 20]),
    st.sampled_from(Form),
)
@settings(max_examples=150, deadline=None)
def test_rows_of_any_size_come_through_either_way(
    rows: int, hidden: int, dtype: torch.dtype, room: int, form: Form
) -> None:
    region, random = memoryview(bytearray(room)), np.random.default_rng(rows)
    numbers = random.integers(0, max(rows, 1), rows).astype(np.int32)
    x_RD = torch.from_numpy(random.standard_normal((rows, hidden), np.float32)).to(dtype)
    call = ExpertCall(3, x_RD, numbers, numbers, random.random(rows, np.float32), form=form)
    parts = pack_call(call, region)
    apart = INLINE_BYTES < x_RD.nbytes <= room
    assert len(b"".join(parts)) == 64 + 12 * rows + (0 if apart else x_RD.nbytes)
    back = unpack_call(bytearray(b"".join(parts)), region)
    assert back.apart == apart
    assert torch.equal(back.x_RD, x_RD)
    assert np.array_equal(back.rows_A, numbers)
    partial = Partial(x_RD.float(), Stamps(1, 2, 3), form=form)
    payload = bytearray(b"".join(pack_partial(partial, region)))
    assert torch.equal(unpack_partial(payload, region).y_ND, partial.y_ND)


def test_lengths_are_checked_against_the_region() -> None:
    room, small = memoryview(bytearray(1 << 14)), memoryview(bytearray(64))
    call = bytearray(b"".join(pack_call(call_of(50), room)))
    reply = bytearray(b"".join(pack_partial(Partial(torch.ones(50, 48), Stamps(0, 0, 0)), room)))
    for region in (None, small):
        with pytest.raises(FrameError) as caught:
            unpack_call(call, region)
        assert caught.value.reason == "shared"
        with pytest.raises(FrameError) as caught:
            unpack_partial(reply, region)
        assert caught.value.reason == "shared"


def test_a_shard_answers_by_the_socket_who_asked_by_it(server: ExpertServer) -> None:
    """Its peer may not have got the memory."""
    with joined(server) as channel:
        channel.set_timeouts(WAIT_S)
        channel.send(Kind.EXPERTS, 1, pack_call(call_of(80)))
        _, payload = channel.receive()
        assert len(payload) == 64 + 80 * 48 * 4
